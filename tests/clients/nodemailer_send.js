// Sends one letter with Nodemailer, as its documentation shows it.
//
// Usage: nodemailer_send.js starttls|tls PORT CA_FILE USERNAME SECRET FROM TO BCC SUBJECT TEXT
// Prints the server's last reply.

const fs = require("fs");
const nodemailer = require("nodemailer");

const [mode, port, caFile, user, pass, from, to, bcc, subject, text] = process.argv.slice(2);

const transport = nodemailer.createTransport({
  host: "127.0.0.1",
  port: Number(port),
  secure: mode === "tls",
  requireTLS: mode === "starttls",
  tls: { ca: fs.readFileSync(caFile) },
  auth: { user, pass },
});

transport.sendMail({ from, to, bcc, subject, text }).then(
  (info) => {
    if (info.rejected.length > 0) {
      throw new Error(`rejected: ${info.rejected}`);
    }
    console.log(info.response);
  },
).catch((error) => {
  console.error(error);
  process.exit(1);
});
