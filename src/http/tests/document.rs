//! The document of our API against the routes and their answers.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::Value;

use super::{Answer, BASE_URL, Town};
use crate::http::openapi::document;
use crate::http::openapi::held::Given;
use crate::sandbox::contract::schema::Description;

static DOCUMENT: LazyLock<Description> =
    LazyLock::new(|| Description::of(serde_json::to_value(document(BASE_URL)).unwrap(), true));

/// Pages and what belongs to them: for people, and so not in the document.
const PAGES: [&str; 10] = [
    "/",
    "/style.css",
    "/script.js",
    "/favicon.svg",
    "/sign-in",
    "/sign-out",
    "/account",
    "/welcome",
    "/thanks",
    "/operator",
];
const METHODS: [Method; 5] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// Asserts that an answer is one that the document describes.
#[track_caller]
pub(super) fn holds(method: &Method, path: &str, answer: &Answer) {
    let given = Given {
        method: method.as_str(),
        path,
        status: answer.status,
        media_type: answer.header("content-type"),
        body: &answer.body,
    };
    assert_eq!(given.unlike(&DOCUMENT), None);
}

/// The paths of a router, as it shows them.
fn paths(shown: &str) -> BTreeSet<String> {
    let known = shown.split("RouteId(").filter_map(|rest| {
        let (_, rest) = rest.split_once("): \"")?;
        Some(rest.split_once('"')?.0.to_owned())
    });
    known.filter(|path| path.starts_with('/') && !path.contains("__private")).collect()
}

fn is_page(path: &str) -> bool {
    PAGES.iter().any(|page| {
        path == *page || *page != "/" && path.strip_prefix(page).is_some_and(|rest| rest.starts_with('/'))
    })
}

#[tokio::test]
async fn every_route_for_programs_is_in_the_document_and_nothing_else_is() {
    let town = Town::new().await;
    let paths = paths(&format!("{:?}", town.router));
    assert!(paths.len() > 30, "the router shows its paths: {paths:?}");
    let mut there = BTreeSet::new();
    for path in paths.iter().filter(|path| !is_page(path)) {
        for method in METHODS {
            let uri = path.replace(['{', '}', '*'], "");
            let request = Request::builder().method(&method).uri(&uri).body(Body::empty()).unwrap();
            let answer = town.call(request).await;
            let is_nothing = answer.status == 404 && answer.body.contains("There is nothing here.");
            if answer.status != 405 && !is_nothing {
                there.insert((path.clone(), method.as_str().to_lowercase()));
            }
        }
    }
    let document = &DOCUMENT.document["paths"];
    let methods = |(path, item): (&String, &Value)| -> Vec<(String, String)> {
        item.as_object().unwrap().keys().map(|method| (path.clone(), method.clone())).collect()
    };
    let told: BTreeSet<_> = document.as_object().unwrap().iter().flat_map(methods).collect();
    assert_eq!(there, told, "left: the routes, right: the document (or name a page in PAGES)");
}

#[tokio::test]
async fn the_document_is_served_to_anyone() {
    let town = Town::new().await;
    let answer = town.call(Request::get("/openapi.json").body(Body::empty()).unwrap()).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert_eq!(answer.json(), DOCUMENT.document);
}
