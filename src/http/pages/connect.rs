//! Settings to be copied: for each common client a text that works as it stands, once the
//! secret is put in. The secret itself is not known here.

use maud::{Markup, html};

use super::layout::{Navigation, Place, copyable, layout, smtp_settings};
use crate::domain::ids::Username;
use crate::http::Settings;

/// Stands where the secret belongs.
const SECRET: &str = "YOUR_SECRET";
/// The same for a username, where there is no credential.
const USERNAME: &str = "YOUR_USERNAME";
/// Somebody to write to.
const TO: &str = "friend@example.net";

/// What a text for a client is made of.
#[derive(Debug)]
struct Access<'a> {
    host: &'a str,
    port: u16,
    /// Or else TLS from the first octet.
    is_starttls: bool,
    username: &'a str,
    from: &'a str,
    base_url: &'a str,
}

/// A text for a client.
#[derive(Debug)]
struct Recipe {
    id: &'static str,
    title: &'static str,
    /// Where it belongs.
    place: &'static str,
    text: String,
}

/// How to connect, with the credential `username`, for one who may send as `from`.
pub(in crate::http) fn connect(
    settings: &Settings,
    username: Option<&Username>,
    from: Option<&str>,
) -> Markup {
    let smtp = &settings.smtp;
    let (port, is_starttls) = match (smtp.starttls_port, smtp.tls_port) {
        (Some(port), _) => (port, true),
        (None, Some(port)) => (port, false),
        (None, None) => (587, true),
    };
    let access = Access {
        host: &smtp.host,
        port,
        is_starttls,
        username: username.map_or(USERNAME, Username::as_str),
        // Whatever a shell or a language could take for its own has no place in an example.
        from: from.filter(|from| is_plain(from)).unwrap_or("you@example.com"),
        base_url: &settings.base_url,
    };
    let recipes = recipes(&access);
    let content = html! {
        h1 { "Connect" }
        section {
            h2 { "SMTP settings" }
            (smtp_settings(settings, None))
            p {
                "Username: " code { (access.username) } ". The secret was shown when the credential was made; put it where "
                code { (SECRET) } " stands. If you do not have it any more, "
                a href="/account/credentials" { "make another credential" } "."
            }
            @if settings.is_sandbox {
                p.soft {
                    "The sandbox made its certificate itself: clients that check certificates are told to trust the "
                    "one in " code { "certs/" } ", or not to look."
                }
            }
        }
        p.jump {
            @for recipe in &recipes { a href={ "#" (recipe.id) } { (recipe.title) } " " }
        }
        @for recipe in &recipes {
            section {
                h2 id=(recipe.id) { (recipe.title) }
                p.soft { (recipe.place) }
                (copyable(&format!("{}-text", recipe.id), recipe.title, &recipe.text))
            }
        }
    };
    layout("Connect", Navigation::Customer(settings, Place::Connect), None, &content)
}

fn is_plain(address: &str) -> bool {
    address.bytes().all(|octet| octet.is_ascii_alphanumeric() || b".@_+-".contains(&octet))
}

fn recipes(access: &Access<'_>) -> Vec<Recipe> {
    let recipe = |id, title, place, text| Recipe { id, title, place, text };
    vec![
        recipe(
            "env",
            "Environment variables",
            "For apps that read their mail server from the environment.",
            env(access),
        ),
        recipe("swaks", "swaks", "In a terminal: sends one mail and shows what was said.", swaks(access)),
        recipe("curl-smtp", "curl, SMTP", "In a terminal.", curl_smtp(access)),
        recipe("curl-http", "curl, HTTP", "In a terminal. No SMTP is needed for this.", curl_http(access)),
        recipe("nodemailer", "Nodemailer", "JavaScript: npm install nodemailer", nodemailer(access)),
        recipe("python", "Python", "smtplib comes with Python.", python(access)),
        recipe("php", "PHP", "PHPMailer: composer require phpmailer/phpmailer", php(access)),
        recipe("rails", "Rails", "In config/environments/production.rb", rails(access)),
        recipe("django", "Django", "In settings.py", django(access)),
        recipe("wordpress", "WordPress", "As wp-content/mu-plugins/smtp.php", wordpress(access)),
        recipe("postfix", "Postfix", "As root: all mail of this machine is relayed.", postfix(access)),
        recipe(
            "resend",
            "Resend’s SDK",
            "JavaScript: npm install resend. The secret is the API key.",
            resend(access),
        ),
    ]
}

fn env(access: &Access<'_>) -> String {
    let Access { host, port, username, from, .. } = access;
    let how = if access.is_starttls { "STARTTLS" } else { "TLS from the beginning" };
    format!(
        "# {how}\nSMTP_HOST={host}\nSMTP_PORT={port}\nSMTP_USERNAME={username}\nSMTP_PASSWORD={SECRET}\nSMTP_FROM={from}\n"
    )
}

fn swaks(access: &Access<'_>) -> String {
    let Access { host, port, username, from, .. } = access;
    let tls = if access.is_starttls { "--tls" } else { "--tls-on-connect" };
    format!(
        "swaks --server {host} --port {port} {tls} \\\n  --auth PLAIN --auth-user '{username}' --auth-password '{SECRET}' \\\n  \
         --from {from} --to {TO} --h-Subject 'Hello' --body 'Sent with swaks.'\n"
    )
}

fn curl_smtp(access: &Access<'_>) -> String {
    let Access { host, port, username, from, .. } = access;
    let scheme = if access.is_starttls { "smtp" } else { "smtps" };
    format!(
        "printf 'From: %s\\r\\nTo: %s\\r\\nSubject: Hello\\r\\n\\r\\nSent with curl.\\r\\n' {from} {TO} |\n  \
         curl -sS --url {scheme}://{host}:{port} --ssl-reqd --user '{username}:{SECRET}' \\\n  \
         --mail-from {from} --mail-rcpt {TO} --upload-file -\n"
    )
}

fn curl_http(access: &Access<'_>) -> String {
    let Access { username, from, base_url, .. } = access;
    format!(
        "curl -sS {base_url}/send --user '{username}:{SECRET}' \\\n  -H 'Content-Type: application/json' \\\n  \
         -d '{{\"from\": \"{from}\", \"to\": \"{TO}\", \"subject\": \"Hello\", \"text\": \"Sent over HTTP.\"}}'\n"
    )
}

fn nodemailer(access: &Access<'_>) -> String {
    let Access { host, port, username, from, .. } = access;
    let tls = if access.is_starttls { "secure: false,\n  requireTLS: true," } else { "secure: true," };
    format!(
        "const nodemailer = require(\"nodemailer\");\n\n\
         const transport = nodemailer.createTransport({{\n  host: \"{host}\",\n  port: {port},\n  {tls}\n  \
         auth: {{ user: \"{username}\", pass: \"{SECRET}\" }},\n}});\n\n\
         transport\n  .sendMail({{ from: \"{from}\", to: \"{TO}\", subject: \"Hello\", text: \"Sent with Nodemailer.\" }})\n  \
         .then((info) => console.log(info.response));\n"
    )
}

fn python(access: &Access<'_>) -> String {
    let Access { host, port, username, from, .. } = access;
    let (begin, starttls) = if access.is_starttls {
        (format!("smtplib.SMTP(\"{host}\", {port})"), "    smtp.starttls(context=context)\n")
    } else {
        (format!("smtplib.SMTP_SSL(\"{host}\", {port}, context=context)"), "")
    };
    format!(
        "import smtplib\nimport ssl\nfrom email.message import EmailMessage\n\n\
         message = EmailMessage()\nmessage[\"From\"] = \"{from}\"\nmessage[\"To\"] = \"{TO}\"\n\
         message[\"Subject\"] = \"Hello\"\nmessage.set_content(\"Sent with Python.\")\n\n\
         context = ssl.create_default_context()\nwith {begin} as smtp:\n{starttls}    \
         smtp.login(\"{username}\", \"{SECRET}\")\n    smtp.send_message(message)\n"
    )
}

fn php(access: &Access<'_>) -> String {
    let Access { host, port, username, from, .. } = access;
    let tls = if access.is_starttls { "ENCRYPTION_STARTTLS" } else { "ENCRYPTION_SMTPS" };
    format!(
        "<?php\nuse PHPMailer\\PHPMailer\\PHPMailer;\n\nrequire 'vendor/autoload.php';\n\n\
         $mail = new PHPMailer(true);\n$mail->isSMTP();\n$mail->Host = '{host}';\n$mail->Port = {port};\n\
         $mail->SMTPSecure = PHPMailer::{tls};\n$mail->SMTPAuth = true;\n$mail->Username = '{username}';\n\
         $mail->Password = '{SECRET}';\n\n$mail->setFrom('{from}');\n$mail->addAddress('{TO}');\n\
         $mail->Subject = 'Hello';\n$mail->Body = 'Sent with PHPMailer.';\n$mail->send();\n"
    )
}

fn rails(access: &Access<'_>) -> String {
    let Access { host, port, username, from, .. } = access;
    let tls = if access.is_starttls { "enable_starttls: true" } else { "tls: true" };
    format!(
        "config.action_mailer.delivery_method = :smtp\nconfig.action_mailer.default_options = {{ from: \"{from}\" }}\n\
         config.action_mailer.smtp_settings = {{\n  address: \"{host}\",\n  port: {port},\n  user_name: \"{username}\",\n  \
         password: \"{SECRET}\",\n  authentication: :plain,\n  {tls}\n}}\n"
    )
}

fn django(access: &Access<'_>) -> String {
    let Access { host, port, username, from, .. } = access;
    let tls = if access.is_starttls { "EMAIL_USE_TLS" } else { "EMAIL_USE_SSL" };
    format!(
        "EMAIL_BACKEND = \"django.core.mail.backends.smtp.EmailBackend\"\nEMAIL_HOST = \"{host}\"\nEMAIL_PORT = {port}\n\
         {tls} = True\nEMAIL_HOST_USER = \"{username}\"\nEMAIL_HOST_PASSWORD = \"{SECRET}\"\nDEFAULT_FROM_EMAIL = \"{from}\"\n"
    )
}

fn wordpress(access: &Access<'_>) -> String {
    let Access { host, port, username, from, .. } = access;
    let tls = if access.is_starttls { "tls" } else { "ssl" };
    format!(
        "<?php\nadd_action('phpmailer_init', function ($mail) {{\n    $mail->isSMTP();\n    $mail->Host = '{host}';\n    \
         $mail->Port = {port};\n    $mail->SMTPSecure = '{tls}';\n    $mail->SMTPAuth = true;\n    \
         $mail->Username = '{username}';\n    $mail->Password = '{SECRET}';\n}});\n\
         add_filter('wp_mail_from', function () {{ return '{from}'; }});\n"
    )
}

fn postfix(access: &Access<'_>) -> String {
    let Access { host, port, username, .. } = access;
    let wrapped = if access.is_starttls { "" } else { " \\\n  smtp_tls_wrappermode=yes" };
    format!(
        "postconf -e 'relayhost=[{host}]:{port}' smtp_sasl_auth_enable=yes \\\n  \
         smtp_sasl_password_maps=texthash:/etc/postfix/sasl_passwd \\\n  smtp_sasl_security_options=noanonymous \\\n  \
         smtp_tls_security_level=encrypt{wrapped}\n\
         (umask 077; echo '[{host}]:{port} {username}:{SECRET}' > /etc/postfix/sasl_passwd)\npostfix reload\n"
    )
}

fn resend(access: &Access<'_>) -> String {
    let Access { from, base_url, .. } = access;
    format!(
        "const {{ Resend }} = require(\"resend\");\n\n\
         const resend = new Resend(\"{SECRET}\", {{ baseUrl: \"{base_url}\" }});\n\n\
         resend.emails\n  .send({{ from: \"{from}\", to: \"{TO}\", subject: \"Hello\", text: \"Sent with Resend's SDK.\" }})\n  \
         .then(({{ data, error }}) => console.log(error ?? data));\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_names_who_signs_in_where_and_over_what() {
        for (port, is_starttls) in [(587, true), (465, false)] {
            let access = Access {
                host: "smtp.meter.example",
                port,
                is_starttls,
                username: "pm-1",
                from: "ann@example.com",
                base_url: "https://meter.example",
            };
            for recipe in recipes(&access) {
                let is_http = matches!(recipe.id, "curl-http" | "resend");
                let text = &recipe.text;
                assert_eq!(text.matches(SECRET).count(), 1, "{text}");
                assert_eq!(text.contains("smtp.meter.example"), !is_http, "{text}");
                assert_eq!(text.contains(&port.to_string()), !is_http, "{text}");
                assert!(text.contains("pm-1") || recipe.id == "resend", "{text}");
                assert_eq!(text.contains("https://meter.example"), is_http, "{text}");
                assert!(text.contains("ann@example.com") || recipe.id == "postfix", "{text}");
            }
        }
    }

    #[test]
    fn what_a_shell_would_read_is_no_example() {
        for (address, plain) in
            [("ann+x@a-b.example", true), ("o'brien@a.example", false), ("\"a b\"@c", false)]
        {
            assert_eq!(is_plain(address), plain, "{address}");
        }
    }
}
