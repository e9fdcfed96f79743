//! An email as `POST /emails` takes it, and what Resend refuses about it.
//!
//! Pure. The awkward parts are kept: one bad address refuses the whole call, a
//! header that Resend writes itself is a 500, and an attachment without a name is
//! accepted and then never leaves.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::refusal::Refusal;

/// Most octets of one email's attachments, after Base64.
const MAX_ATTACHMENT_OCTETS: usize = 40_000_000;

/// Header fields that Resend writes itself.
const OWN_HEADERS: [&str; 9] = [
    "content-type",
    "content-transfer-encoding",
    "content-disposition",
    "mime-version",
    "from",
    "to",
    "cc",
    "subject",
    "reply-to",
];

/// File name extensions that are refused.
const BLOCKED: &str = " adp app asp bas bat cer chm cmd com cpl crt csh der exe fxp gadget hlp hta inf ins isp its js \
    jse ksh lib lnk mad maf mag mam maq mar mas mat mau mav maw mda mdb mde mdt mdw mdz msc msh msh1 msh2 mshxml \
    msh1xml msh2xml msi msp mst ops pcd pif plg prf prg reg scf scr sct shb shs sys ps1 ps1xml ps2 ps2xml psc1 psc2 \
    tmp url vb vbe vbs vps vsmacros vss vst vsw vxd ws wsc wsf wsh xnk ";

/// Extensions whose type Resend knows.
const KNOWN_TYPES: [(&str, &str); 16] = [
    ("txt", "text/plain"),
    ("csv", "text/csv"),
    ("htm", "text/html"),
    ("html", "text/html"),
    ("ics", "text/calendar"),
    ("json", "application/json"),
    ("pdf", "application/pdf"),
    ("zip", "application/zip"),
    ("xml", "application/xml"),
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("gif", "image/gif"),
    ("svg", "image/svg+xml"),
    ("webp", "image/webp"),
    ("eml", "message/rfc822"),
];

/// The body of `POST /emails`. Fields that this stand-in does not know are ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Email {
    /// `a@b.c` or `Name <a@b.c>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// One to fifty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Addresses>,
    /// Any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cc: Option<Addresses>,
    /// Any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bcc: Option<Addresses>,
    /// Any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<Addresses>,
    /// One line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The HTML body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
    /// The text body; absent: made from the HTML; empty: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Further header fields; every value a string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
    /// Files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachments: Option<Vec<Attachment>>,
    /// Marks that come back in webhooks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<Tag>>,
}

/// One address or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Addresses {
    /// A bare string.
    One(String),
    /// A list.
    Many(Vec<String>),
}

impl Addresses {
    /// The addresses.
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// A tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// ASCII letters, digits, `_` and `-`, at most 256.
    pub name: String,
    /// Likewise.
    pub value: String,
}

/// A file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Base64, or an array of octets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// A URL, fetched after acceptance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The name that the recipient sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// Else derived from the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Makes it inline, as `cid:…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_id: Option<String>,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// Base64.
    Text(String),
    /// Octets as JSON numbers.
    Octets(Vec<u8>),
}

impl Attachment {
    /// What the recipient gets. A calendar's text arrives exactly as it was given, Base64 or not.
    pub fn octets(&self) -> Option<Vec<u8>> {
        match self.content.as_ref()? {
            Content::Octets(octets) => Some(octets.clone()),
            Content::Text(text) if self.is_calendar() => Some(text.clone().into_bytes()),
            Content::Text(text) => STANDARD.decode(text).ok(),
        }
    }

    /// Its type as told or as the name's extension says.
    pub fn media_type(&self) -> &str {
        self.content_type.as_deref().or_else(|| self.known_type()).unwrap_or("application/octet-stream")
    }

    fn is_calendar(&self) -> bool {
        self.media_type().to_ascii_lowercase().starts_with("text/calendar")
    }

    fn extension(&self) -> Option<String> {
        let (_, extension) = self.filename.as_deref()?.rsplit_once('.')?;
        Some(extension.to_ascii_lowercase())
    }

    fn known_type(&self) -> Option<&'static str> {
        let extension = self.extension()?;
        KNOWN_TYPES.iter().find(|(known, _)| *known == extension).map(|(_, media)| *media)
    }

    /// Whether Resend accepts it and then never sends the mail: no name, or an extension that
    /// contradicts the type.
    fn sticks(&self) -> bool {
        let Some(told) = &self.content_type else { return self.filename.is_none() };
        let told = told.split(';').next().unwrap_or_default().trim();
        self.filename.is_none() || self.known_type().is_some_and(|known| !known.eq_ignore_ascii_case(told))
    }

    /// Its size in a call.
    pub(in crate::sandbox) fn encoded_octets(&self) -> usize {
        match &self.content {
            Some(Content::Text(text)) => text.len(),
            Some(Content::Octets(octets)) => octets.len().div_ceil(3) * 4,
            None => 0,
        }
    }

    fn check(&self) -> Result<(), Refusal> {
        if self.content.is_none() && self.path.is_none() {
            return Err(Refusal::attachment("Attachment must have either a `content` or `path`."));
        }
        if self.path.is_none() && self.octets().is_none() {
            return Err(Refusal::attachment("Attachment `content` is not valid Base64."));
        }
        if let Some(extension) = self.extension()
            && !extension.contains(' ')
            && BLOCKED.contains(&format!(" {extension} "))
        {
            return Err(Refusal::attachment(format!(
                "Attachments with the extension .{extension} are not supported."
            )));
        }
        match &self.content_id {
            Some(id) if id.chars().count() >= 128 => {
                Err(Refusal::validation("`content_id` must be shorter than 128 characters."))
            }
            _ => Ok(()),
        }
    }
}

impl Email {
    /// Every recipient, in To, Cc and Bcc.
    pub fn recipients(&self) -> impl Iterator<Item = &str> {
        [&self.to, &self.cc, &self.bcc].into_iter().flat_map(addresses)
    }

    /// The value of a tag.
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.tags.as_deref()?.iter().find(|tag| tag.name == name).map(|tag| tag.value.as_str())
    }

    /// Whether it is accepted and then stays queued for ever.
    pub fn is_stuck(&self) -> bool {
        self.attachments.as_deref().unwrap_or_default().iter().any(Attachment::sticks)
    }

    /// What Resend would say of it.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(super) fn check(&self, verified_domains: Option<&[String]>) -> Result<(), Refusal> {
        let from = self.from.as_deref().ok_or_else(|| Refusal::missing("from"))?;
        let to = self.to.as_ref().ok_or_else(|| Refusal::missing("to"))?.as_slice();
        let subject = self.subject.as_deref().ok_or_else(|| Refusal::missing("subject"))?;
        if !(1..=50).contains(&to.len()) {
            return Err(Refusal::validation("The `to` field must have between 1 and 50 email addresses."));
        }
        check_address("from", from)?;
        for (field, addresses) in
            [("to", &self.to), ("cc", &self.cc), ("bcc", &self.bcc), ("reply_to", &self.reply_to)]
        {
            addresses_of(addresses).iter().try_for_each(|address| check_address(field, address))?;
        }
        if subject.contains(['\r', '\n']) {
            return Err(Refusal::validation("The `\\n` is not allowed in the `subject` field."));
        }
        let empty = |body: &Option<String>| body.as_deref().is_none_or(str::is_empty);
        if empty(&self.html) && empty(&self.text) {
            return Err(Refusal::missing("html` or `text"));
        }
        self.check_tags()?;
        self.check_attachments()?;
        if let (Some(verified), Some(domain)) = (verified_domains, domain_of(from))
            && !verified.iter().any(|one| one.eq_ignore_ascii_case(domain))
        {
            return Err(Refusal::unverified_domain(domain));
        }
        self.check_headers()
    }

    fn check_tags(&self) -> Result<(), Refusal> {
        let tags = self.tags.as_deref().unwrap_or_default();
        if tags.len() > 75 {
            return Err(Refusal::validation("An email can have at most 75 tags."));
        }
        let fits = |text: &str| {
            text.len() <= 256
                && !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        };
        if tags.iter().all(|tag| fits(&tag.name) && fits(&tag.value)) {
            return Ok(());
        }
        Err(Refusal::validation(
            "Tags should only contain ASCII letters, numbers, underscores, or dashes, and at most 256 characters.",
        ))
    }

    fn check_attachments(&self) -> Result<(), Refusal> {
        let attachments = self.attachments.as_deref().unwrap_or_default();
        if attachments.iter().map(Attachment::encoded_octets).sum::<usize>() > MAX_ATTACHMENT_OCTETS {
            return Err(Refusal::attachment("The total size of attachments exceeds 40 MB."));
        }
        attachments.iter().try_for_each(Attachment::check)
    }

    fn check_headers(&self) -> Result<(), Refusal> {
        for (name, value) in self.headers.iter().flatten() {
            // A permanent error that wears a transient status.
            if OWN_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
                return Err(Refusal::application_error(format!("Duplicate header '{name}'.")));
            }
            let token = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
            if !token || value.contains(['\r', '\n', '\0']) {
                return Err(Refusal::validation(format!("The header `{name}` is invalid.")));
            }
        }
        Ok(())
    }
}

fn addresses(of: &Option<Addresses>) -> impl Iterator<Item = &str> {
    addresses_of(of).iter().map(|address| bare(address).unwrap_or_default())
}

fn addresses_of(of: &Option<Addresses>) -> &[String] {
    of.as_ref().map(Addresses::as_slice).unwrap_or_default()
}

/// The address without its display name.
fn bare(address: &str) -> Option<&str> {
    let address = address.trim();
    match address.strip_suffix('>') {
        Some(rest) => rest.rsplit_once('<').map(|(_, bare)| bare),
        None => Some(address),
    }
}

fn domain_of(address: &str) -> Option<&str> {
    bare(address)?.rsplit_once('@').map(|(_, domain)| domain)
}

/// `email@example.com` or `Name <email@example.com>`; no group, nothing beyond ASCII in the address.
fn check_address(field: &str, address: &str) -> Result<(), Refusal> {
    let sound = bare(address).and_then(|bare| bare.rsplit_once('@')).is_some_and(|(local, domain)| {
        let local = local.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).map_or_else(
            || {
                !local.is_empty()
                    && local.bytes().all(|b| b.is_ascii_graphic() && !b"@()<>[]:;,\\\"".contains(&b))
            },
            |quoted| quoted.bytes().all(|b| b == b' ' || b.is_ascii_graphic()),
        );
        local && is_domain(domain)
    });
    if sound && !address.contains(['\r', '\n', '\0']) {
        return Ok(());
    }
    Err(Refusal::validation(format!(
        "Invalid `{field}` field. The email address needs to follow the `email@example.com` or `Name <email@example.com>` format."
    )))
}

fn is_domain(domain: &str) -> bool {
    domain.contains('.')
        && domain.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}
