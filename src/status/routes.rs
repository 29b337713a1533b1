//! What can be asked, and the answers.
//!
//! Every route is for looking, so all take GET and HEAD and nothing else. Order of the checks: is there such a thing,
//! may it be asked this way, may you ask; so that a refusal tells no more than what stands in the manual.

use bytes::Bytes;
use http_body_util::Full;
use hyper::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use matchit::Router;

use super::access::{Denial, Guard};
use super::api::{self, Picture};
use super::assets::{self, Asset, PAGE};
use super::{look::Look, metrics};
use crate::snapshot::Snapshot;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

const NOT_ANSWERING: &str = "the supervisor does not answer";

const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const CROSS_ORIGIN_OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// On every answer: our own files and nothing else, never inside another page, never kept.
const ALWAYS: [(HeaderName, &str); 6] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
    (CROSS_ORIGIN_OPENER_POLICY, "same-origin"),
    (CACHE_CONTROL, "no-store"),
];

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    Page,
    Asset,
    Status,
    Metrics,
    Health,
    Ready,
}

impl Route {
    /// Whether it is answered without a token: it tells nothing about what runs.
    pub fn is_public(self) -> bool {
        match self {
            Route::Health | Route::Asset => true,
            Route::Page | Route::Status | Route::Metrics | Route::Ready => false,
        }
    }
}

pub type Answer = Response<Full<Bytes>>;

/// Everything that is needed to answer.
pub struct Site {
    routes: Router<Route>,
    guard: Guard,
    look: Look,
}

impl Site {
    pub fn new(guard: Guard, look: Look) -> Site {
        let mut routes = Router::new();
        for (path, route) in [
            ("/", Route::Page),
            ("/assets/{name}", Route::Asset),
            ("/api/v1/status", Route::Status),
            ("/metrics", Route::Metrics),
            ("/healthz", Route::Health),
            ("/readyz", Route::Ready),
        ] {
            routes.insert(path, route).expect("the paths above are different and well formed");
        }
        Site { routes, guard, look }
    }

    /// Answers within the time limit of a [`Look`].
    pub async fn answer(&self, request: &Parts) -> Answer {
        let Ok(found) = self.routes.at(request.uri.path()) else {
            return text(StatusCode::NOT_FOUND, "there is nothing here");
        };
        if request.method != Method::GET && request.method != Method::HEAD {
            return not_allowed();
        }
        let route = *found.value;
        match self.guard.admit(route, request) {
            Ok(()) => match route {
                Route::Page => file(StatusCode::OK, &PAGE),
                Route::Asset => asset(found.params.get("name").unwrap_or_default()),
                Route::Status => self.status(request.uri.query()).await,
                Route::Metrics => self.show(metrics_answer).await,
                Route::Health => self.show(|_| text(StatusCode::OK, "ok")).await,
                Route::Ready => self.show(readiness).await,
            },
            Err(denial) => denied(route, denial),
        }
    }

    async fn status(&self, query: Option<&str>) -> Answer {
        let Some(snapshot) = self.look.snapshot().await else {
            let sentence = serde_json::json!({ "error": NOT_ANSWERING }).to_string();
            return respond(StatusCode::SERVICE_UNAVAILABLE, JSON, sentence);
        };
        match Picture::new(snapshot, self.look.history().extract(api::since(query))).to_json() {
            Ok(json) => respond(StatusCode::OK, JSON, json),
            Err(error) => cannot_be_written("the status as JSON", &error),
        }
    }

    async fn show(&self, answer: impl FnOnce(Snapshot) -> Answer) -> Answer {
        match self.look.snapshot().await {
            Some(snapshot) => answer(snapshot),
            None => text(StatusCode::SERVICE_UNAVAILABLE, NOT_ANSWERING),
        }
    }
}

fn metrics_answer(snapshot: Snapshot) -> Answer {
    match metrics::text(snapshot) {
        Ok(text) => respond(StatusCode::OK, metrics::CONTENT_TYPE, text),
        Err(error) => cannot_be_written("the metrics", &error),
    }
}

fn readiness(snapshot: Snapshot) -> Answer {
    match api::unready_sentence(&snapshot) {
        None => text(StatusCode::OK, "ready"),
        Some(sentence) => text(StatusCode::SERVICE_UNAVAILABLE, &sentence),
    }
}

fn asset(name: &str) -> Answer {
    match assets::find(name) {
        Some(asset) => file(StatusCode::OK, asset),
        None => text(StatusCode::NOT_FOUND, "the page has no such file"),
    }
}

fn file(status: StatusCode, asset: &'static Asset) -> Answer {
    respond(status, asset.content_type, Bytes::from_static(asset.content.as_bytes()))
}

fn denied(route: Route, denial: Denial) -> Answer {
    let status = match denial {
        Denial::NoHost => StatusCode::BAD_REQUEST,
        Denial::ForeignHost | Denial::CrossSite => StatusCode::FORBIDDEN,
        Denial::NoToken => StatusCode::UNAUTHORIZED,
    };
    let mut answer = match (route, denial) {
        // The page itself asks for the token then; it knows nothing that needs one.
        (Route::Page, Denial::NoToken) => file(status, &PAGE),
        _ => text(status, &denial.to_string()),
    };
    if status == StatusCode::UNAUTHORIZED {
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

fn not_allowed() -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "this is only for looking: GET and HEAD");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    answer
}

fn cannot_be_written(what: &str, error: &dyn std::fmt::Display) -> Answer {
    tracing::error!(%error, "cannot write {what}");
    text(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be written; the supervisor's log says why")
}

fn text(status: StatusCode, sentence: &str) -> Answer {
    respond(status, TEXT, format!("{sentence}\n"))
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    for (name, value) in ALWAYS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}
