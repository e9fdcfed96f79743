//! Customers as the operator sees them: some at a time, and each by itself.

use maud::{Markup, html};

use super::super::layout::{Tone, alert, badge, empty, grouped, time, warning};
use super::{Place, alerts, page, recipients, state, subject};
use crate::domain::credits::Credits;
use crate::domain::sender::SenderPattern;
use crate::http::error::in_debt;
use crate::store::alert::Alert;
use crate::store::customer::{Credential, Customer};
use crate::store::log::MessageLog;
use crate::store::operator_view::CustomerPage;

/// Senders that are shown.
const SENDERS: usize = 50;

/// Customers, some at a time.
pub(in crate::http) fn customers(page_of: &CustomerPage, q: &str, is_first: bool) -> Markup {
    let query = |after: &str| {
        let pairs = [("q", q), ("after", after)].into_iter().filter(|(_, value)| !value.is_empty());
        let url = reqwest::Url::parse_with_params("http://localhost/operator/customers", pairs);
        url.ok().and_then(|url| url.query().map(str::to_owned)).unwrap_or_default()
    };
    let content = html! {
        h1 { "Customers" }
        form.toolbar method="get" action="/operator/customers" role="search" {
            div {
                label for="q" { "Id, address or name" }
                input #q type="search" name="q" value=(q) maxlength="100" autocomplete="off";
            }
            button type="submit" { "Search" }
        }
        @if page_of.customers.is_empty() {
            (empty(if page_of.next.is_some() { "Nobody among those that were looked at." } else { "Nobody." }))
        } @else {
            section { (customer_table(&page_of.customers)) }
        }
        p.pager {
            @if !is_first { a href={ "/operator/customers?" (query("")) } { "First" } }
            @if let Some(next) = &page_of.next { a href={ "/operator/customers?" (query(next.as_str())) } { "More" } }
        }
    };
    page("Customers", Place::Customers, &content)
}

fn customer_table(customers: &[Customer]) -> Markup {
    let number = |count: Option<i64>| count.map_or("unknown".to_owned(), grouped);
    html! {
        table.stack {
            thead {
                tr {
                    th { "Customer" } th { "Address" } th.number { "Balance" } th.number { "Available" }
                    th.number { "Held" } th.number { "Owed" } th { "State" }
                }
            }
            tbody {
                @for customer in customers {
                    @let account = &customer.account;
                    tr {
                        td data-label="Customer" { a href={ "/operator/customers/" (customer.customer_id) } { (customer.customer_id) } }
                        td data-label="Address" { (customer.email.as_deref().unwrap_or("–")) }
                        td.number data-label="Balance" { (number(account.balance)) }
                        td.number data-label="Available" { (number(account.available())) }
                        td.number data-label="Held" { (grouped(account.held.to_i64())) }
                        td.number data-label="Owed" { (grouped(account.owed.to_i64())) }
                        td data-label="State" { (standing(customer)) }
                    }
                }
            }
        }
    }
}

fn standing(customer: &Customer) -> Markup {
    if customer.suspended_reason.is_some() {
        badge(Tone::Bad, "suspended")
    } else {
        badge(Tone::Good, "active")
    }
}

/// One customer.
#[derive(Debug)]
pub(in crate::http) struct CustomerView<'a> {
    pub(in crate::http) customer: &'a Customer,
    pub(in crate::http) credentials: &'a [Credential],
    pub(in crate::http) senders: &'a [SenderPattern],
    /// The newest.
    pub(in crate::http) messages: &'a [MessageLog],
    /// Refunds and disputes, the newest first.
    pub(in crate::http) alerts: &'a [Alert],
    /// Why a suspension was not done, and what was typed.
    pub(in crate::http) problem: Option<(&'a str, &'a str)>,
}

impl CustomerView<'_> {
    pub(in crate::http) fn render(&self) -> Markup {
        let customer = self.customer;
        let account = &customer.account;
        let number = |count: Option<i64>| count.map_or("unknown".to_owned(), grouped);
        let content = html! {
            div.title { h1 { (customer.customer_id) } (standing(customer)) }
            @if account.shortfall() > Credits::ZERO { (warning(&in_debt(account.shortfall()))) }
            dl.figures {
                div { dt { "Available" } dd { (number(account.available())) } }
                div { dt { "Balance" } dd { (number(account.balance)) } }
                div { dt { "Held" } dd { (grouped(account.held.to_i64())) } }
                div { dt { "Owed" } dd { (grouped(account.owed.to_i64())) } }
            }
            section {
                dl.settings {
                    dt { "Name" } dd { (customer.name.as_deref().unwrap_or("–")) }
                    dt { "Address" } dd { (customer.email.as_deref().unwrap_or("–")) }
                    dt { "Known since" } dd { (time(customer.created_at)) }
                    dt { "Balance as of" }
                    dd { @match account.balance_read_at { Some(at) => (time(at)), None => "never read" } }
                }
                p { a href={ "/operator/queue?state=queued&customer_id=" (customer.customer_id) } { "Their mail in the queue" } }
            }
            (alerts(self.alerts))
            (self.suspension())
            (self.messages())
            (self.credentials())
            section {
                h2 { "Senders" }
                @if self.senders.is_empty() { (empty("None: they cannot send yet.")) } @else {
                    ul { @for sender in self.senders.iter().take(SENDERS) { li { code { (sender) } } } }
                    @if self.senders.len() > SENDERS { p.soft { "and " (self.senders.len().saturating_sub(SENDERS)) " more" } }
                }
            }
        };
        page(customer.customer_id.as_str(), Place::Customers, &content)
    }

    fn suspension(&self) -> Markup {
        let id = &self.customer.customer_id;
        html! {
            section {
                h2 { "Suspension" }
                @match &self.customer.suspended_reason {
                    Some(reason) => {
                        (warning(&format!("Suspended: {reason}")))
                        p.soft { "What is in the queue goes on leaving. Bounces and complaints of mail that was accepted before do not count again." }
                        form method="post" action={ "/operator/customers/" (id) "/resume" } {
                            button type="submit" { "Resume" }
                        }
                    }
                    None => {
                        p.soft { "A suspended customer's mail is refused, with the reason, until they are resumed." }
                        form method="post" action={ "/operator/customers/" (id) "/suspend" } {
                            @if let Some((problem, _)) = self.problem { div #problem { (alert(problem)) } }
                            label for="reason" { "Reason, which the customer is told" }
                            input #reason type="text" name="reason" maxlength="200" required
                                value=(self.problem.map_or("", |(_, typed)| typed))
                                aria-invalid=[self.problem.map(|_| "true")]
                                aria-describedby=[self.problem.map(|_| "problem")];
                            button.danger type="submit" { "Suspend" }
                        }
                    }
                }
            }
        }
    }

    fn messages(&self) -> Markup {
        html! {
            section {
                h2 { "Messages" }
                @if self.messages.is_empty() { (empty("None yet.")) } @else {
                    table.stack {
                        thead { tr { th { "Accepted" } th { "To" } th { "Subject" } th { "State" } th.number { "Credits" } } }
                        tbody {
                            @for message in self.messages {
                                tr {
                                    td data-label="Accepted" { a href={ "/operator/queue/" (message.message_id) } { (time(message.accepted_at)) } }
                                    td data-label="To" { (recipients(message)) }
                                    td data-label="Subject" { (subject(message)) }
                                    td data-label="State" { (state(message.state)) }
                                    td.number data-label="Credits" { (grouped(message.captured)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    fn credentials(&self) -> Markup {
        html! {
            section {
                h2 { "Credentials" }
                @if self.credentials.is_empty() { (empty("None.")) } @else {
                    table.stack {
                        thead { tr { th { "Username" } th { "Label" } th { "Created" } th { "Revoked" } } }
                        tbody {
                            @for credential in self.credentials {
                                tr {
                                    td data-label="Username" { code { (credential.username) } }
                                    td data-label="Label" { (credential.label.as_deref().unwrap_or("–")) }
                                    td data-label="Created" { (time(credential.created_at)) }
                                    td data-label="Revoked" { @match credential.revoked_at { Some(at) => (time(at)), None => "no" } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
