//! What the sender of a message asks to be told (RFC 3461), out of its columns.

use serde::Serialize;

use super::sql::{Session, query_as};
use super::{Store, StoreError, stored};
use crate::domain::address::Mailbox;
use crate::domain::dsn::{Dsn, EnvelopeId, Notify, OriginalRecipient, RecipientDsn, Ret};
use crate::domain::ids::MessageId;

/// What the sender of a message asked to be told, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Asked {
    /// RET.
    pub ret: Option<String>,
    /// ENVID, as it was said.
    pub envid: Option<String>,
    /// Those of whom anything was asked, by address.
    pub recipients: Vec<AskedOf>,
}

/// What was asked about one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow, utoipa::ToSchema)]
pub struct AskedOf {
    /// The address.
    pub address: String,
    /// NOTIFY.
    pub notify: Option<String>,
    /// ORCPT, as it is kept.
    pub orcpt: Option<String>,
}

impl Store {
    /// What its sender asked to be told of a message; `None`: nothing.
    pub(super) async fn asked(&self, message_id: &MessageId) -> Result<Option<Asked>, StoreError> {
        const MESSAGE: &str = "SELECT ret, envid FROM message WHERE message_id = $1";
        const RECIPIENTS: &str = "
            SELECT address, notify, orcpt FROM recipient
            WHERE message_id = $1 AND (notify IS NOT NULL OR orcpt IS NOT NULL) ORDER BY address";
        let id = message_id.as_str();
        let message: Option<(Option<String>, Option<String>)> =
            query_as(MESSAGE).bind(id).fetch_optional(&self.readers).await?;
        let (ret, envid) = message.unwrap_or_default();
        let recipients: Vec<AskedOf> = query_as(RECIPIENTS).bind(id).fetch_all(&self.readers).await?;
        let is_asked = ret.is_some() || envid.is_some() || !recipients.is_empty();
        Ok(is_asked.then_some(Asked { ret, envid, recipients }))
    }
}

/// `message.ret` and `message.envid`.
pub(super) fn of_message(ret: Option<&str>, envid: Option<&str>) -> Result<Dsn, StoreError> {
    let ret = stored(ret.map(Ret::parse).transpose())?;
    Ok(Dsn::new(ret, stored(envid.map(EnvelopeId::parse).transpose())?))
}

/// `recipient.notify` and `recipient.orcpt`.
pub(super) fn of_recipient(notify: Option<&str>, orcpt: Option<&str>) -> Result<RecipientDsn, StoreError> {
    let notify = stored(notify.map(Notify::parse).transpose())?;
    Ok(RecipientDsn { notify, original: stored(orcpt.map(OriginalRecipient::parse).transpose())? })
}

/// Adds what is asked about the recipients of a message.
pub(super) async fn ask(
    dsn: &mut Dsn,
    tx: &mut Session<'_>,
    message_id: &MessageId,
) -> Result<(), StoreError> {
    const READ: &str = "
        SELECT address, notify, orcpt FROM recipient
        WHERE message_id = $1 AND (notify IS NOT NULL OR orcpt IS NOT NULL)";
    let rows: Vec<(String, Option<String>, Option<String>)> =
        query_as(READ).bind(message_id.as_str()).fetch_all(tx).await?;
    for (address, notify, orcpt) in rows {
        let asked = of_recipient(notify.as_deref(), orcpt.as_deref())?;
        dsn.ask(&stored(Mailbox::parse(&address))?, asked);
    }
    Ok(())
}
