//! Links by which customers sign in, mailed to the address that their payment named.
//!
//! Whoever asks is told the same at once, whether anybody has the address or not: what is found
//! out and mailed is a task of its own. The mail goes to the address as it is known, not as it
//! was typed. Of several customers with one address each has a line in one mail. The secrets are
//! in the mail alone; the database keeps their hashes, and the mail only until it has left or the
//! links are over.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Billing;
use crate::crash::CrashPoint;
use crate::domain::address::Mailbox;
use crate::domain::credential::Secret;
use crate::domain::digest::hex;
use crate::mime::notice::{SignInLink, sign_in_links};
use crate::random;
use crate::store::StoreError;
use crate::store::accept::Acceptance;
use crate::store::sign_in_link::{Addressee, LINK_LIFETIME, NewLink};

/// Where a link leads, below `BASE_URL`.
pub(crate) const LINK_PATH: &str = "/sign-in/link?t=";

impl Billing {
    /// Mails the links to whoever has this address, if anybody does. Returns at once.
    pub(crate) fn mail_sign_in_links(&self, address: Mailbox) {
        let billing = self.clone();
        self.0.tools.tasks.spawn(async move {
            if let Err(error) = billing.try_mail_links(&address).await {
                error.tell("links to sign in could not be mailed");
            }
        });
    }

    async fn try_mail_links(&self, address: &Mailbox) -> Result<(), StoreError> {
        let who = self.0.tools.store.customers_at(&address.to_string()).await?;
        if who.is_empty() {
            tracing::info!("a link to sign in was asked for by an address that no customer has");
        }
        // Whoever is spelt otherwise may be somebody else.
        let mut spelt: BTreeMap<&str, Vec<&Addressee>> = BTreeMap::new();
        for of in &who {
            spelt.entry(&of.email).or_default().push(of);
        }
        for (email, who) in spelt {
            self.mail_to(email, &who).await?;
        }
        Ok(())
    }

    async fn mail_to(&self, email: &str, who: &[&Addressee]) -> Result<(), StoreError> {
        let store = &self.0.tools.store;
        let (links, mail) = match self.linked(email, who) {
            Ok(composed) => composed,
            Err(reason) => {
                tracing::warn!(?reason, "a link to sign in cannot be mailed");
                return Ok(());
            }
        };
        let (customer_id, customers) = (&mail.customer_id, who.len());
        if store.mail_links(&links, &mail, self.0.tools.clock.now()).await? {
            store.pass(CrashPoint::NoticeCommitted);
            tracing::info!(%customer_id, message_id = %mail.message_id, customers, "a link to sign in is mailed");
        } else {
            tracing::warn!(%customer_id, "no link to sign in is mailed: as many are under way as there may be");
        }
        Ok(())
    }

    /// The links, and the mail that they are in.
    fn linked(&self, email: &str, who: &[&Addressee]) -> Result<(Vec<NewLink>, Acceptance), String> {
        let to = Mailbox::parse(email).map_err(|error| error.to_string())?;
        let first = who.first().ok_or("nobody has it")?;
        let base_url = &self.0.settings.base_url;
        let secrets: Vec<Secret> = who.iter().map(|_| Secret::generate(random::octets())).collect();
        let url = |secret: &Secret| format!("{base_url}{LINK_PATH}{}", secret.reveal());
        let urls: Vec<String> = secrets.iter().map(url).collect();
        let shown = who.iter().zip(&urls).map(|(of, url)| SignInLink {
            customer_id: of.customer_id.as_str(),
            name: of.name.as_deref(),
            url,
        });
        let shown: Vec<SignInLink<'_>> = shown.collect();
        let mut mail = self.composed(&first.customer_id, &to, |origin| sign_in_links(origin, &to, &shown))?;
        // A link that is over is not worth a mail.
        mail.lifetime = Duration::try_from(LINK_LIFETIME).unwrap_or(mail.lifetime);
        let kept = who.iter().zip(&secrets).map(|(of, secret)| NewLink {
            link_hash: hex(secret.hash().as_bytes()),
            customer_id: of.customer_id.clone(),
        });
        Ok((kept.collect(), mail))
    }
}
