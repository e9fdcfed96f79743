// Does with Resend's official SDK what it is told, at another server than Resend.
//
// Usage: resend_sdk.js BASE_URL API_KEY, and on stdin a JSON list of
// {"call": "emails.send", "arguments": […]}, where {"octets": "BASE64"} is a Buffer.
// Prints the list of what the SDK gave: {data, error}, as its users see them.

const fs = require("fs");
const { Resend } = require("resend");

const [baseUrl, apiKey] = process.argv.slice(2);
const revived = (_, value) => (value && value.octets ? Buffer.from(value.octets, "base64") : value);
const calls = JSON.parse(fs.readFileSync(0, "utf8"), revived);

async function main() {
  const resend = new Resend(apiKey, { baseUrl });
  const given = [];
  for (const { call, arguments: values } of calls) {
    const [resource, method] = call.split(".");
    const { data, error } = await resend[resource][method](...values);
    given.push({ data, error });
  }
  console.log(JSON.stringify(given));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
