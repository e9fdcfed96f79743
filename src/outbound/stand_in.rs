//! An HTTP server for tests: gives the answers it was told to give, in order,
//! and keeps what it was asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

/// One request, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) uri: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Status, headers and body of an answer.
pub(crate) type Given = (u16, &'static [(&'static str, &'static str)], &'static str);

/// The running server; it ends with the test's runtime.
#[derive(Debug, Clone)]
pub(crate) struct StandIn {
    pub(crate) base_url: String,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    asked: Vec<Asked>,
    answers: VecDeque<Given>,
    /// What is answered when there is nothing left to say; `None`: nothing should be asked then.
    otherwise: Option<Given>,
}

impl StandIn {
    pub(crate) async fn start(answers: &[Given]) -> Self {
        Self::with(answers, None).await
    }

    /// The same, which answers 503 when it has given all of its answers.
    pub(crate) async fn busy(answers: &[Given]) -> Self {
        Self::with(answers, Some((503, &[], ""))).await
    }

    async fn with(answers: &[Given], otherwise: Option<Given>) -> Self {
        let answers = answers.iter().copied().collect();
        let shared = Arc::new(Mutex::new(Shared { asked: Vec::new(), answers, otherwise }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { base_url, shared }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.lock().unwrap().asked.clone()
    }
}

async fn answer(
    State(shared): State<Arc<Mutex<Shared>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut shared = shared.lock().unwrap();
    shared.asked.push(Asked { method, uri: uri.to_string(), headers, body });
    let (status, headers, body) =
        shared.answers.pop_front().or(shared.otherwise).expect("an answer for every request");
    let headers: HeaderMap =
        headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    (StatusCode::from_u16(status).unwrap(), headers, body).into_response()
}
