//! What every message is measured by, whoever takes it in, and before its way is looked for.
//! `postmeter explain` measures by the same.

use crate::config::Smtp;
use crate::domain::refusal::Refusal;
use crate::mime::inspect::{Inspection, inspect};

/// A message that passed through more hands than this goes in circles: the threshold
/// is large, "normally at least 100 Received entries" (RFC 5321 §6.3).
const MAX_RECEIVED: usize = 100;

/// The bounds of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    max_message_bytes: usize,
    max_recipients: usize,
}

impl Bounds {
    /// The bounds of this configuration.
    pub fn new(smtp: &Smtp) -> Self {
        Self { max_message_bytes: smtp.max_message_bytes, max_recipients: smtp.max_recipients }
    }

    /// Reads the header of a message of so many octets to so many recipients. `beginning`
    /// may be all of it; the whole header is in it.
    ///
    /// # Errors
    /// It is beyond a bound, or its header is not sound.
    pub fn inspect(&self, beginning: &[u8], octets: usize, recipients: usize) -> Result<Inspection, Refusal> {
        if octets > self.max_message_bytes {
            return Err(Refusal::TooLarge { limit_bytes: self.max_message_bytes });
        }
        if recipients > self.max_recipients {
            return Err(self.too_many_recipients());
        }
        let inspection =
            inspect(beginning).map_err(|e| Refusal::Unacceptable { status: "5.6.0", what: e.to_string() })?;
        if inspection.received > MAX_RECEIVED {
            return Err(Refusal::Looping);
        }
        Ok(inspection)
    }

    pub(super) fn too_many_recipients(&self) -> Refusal {
        Refusal::TooManyRecipients { limit: self.max_recipients }
    }
}
