//! What the sender of a message asks to be told (RFC 3461), out of its columns.

use sqlx::SqliteConnection;

use super::{StoreError, stored};
use crate::domain::address::Mailbox;
use crate::domain::dsn::{Dsn, EnvelopeId, Notify, OriginalRecipient, RecipientDsn, Ret};
use crate::domain::ids::MessageId;

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
    tx: &mut SqliteConnection,
    message_id: &MessageId,
) -> Result<(), StoreError> {
    const READ: &str = "
        SELECT address, notify, orcpt FROM recipient
        WHERE message_id = ?1 AND (notify IS NOT NULL OR orcpt IS NOT NULL)";
    let rows: Vec<(String, Option<String>, Option<String>)> =
        sqlx::query_as(READ).bind(message_id.as_str()).fetch_all(tx).await?;
    for (address, notify, orcpt) in rows {
        let asked = of_recipient(notify.as_deref(), orcpt.as_deref())?;
        dsn.ask(&stored(Mailbox::parse(&address))?, asked);
    }
    Ok(())
}
