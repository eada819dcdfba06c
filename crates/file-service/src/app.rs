//! The state that all requests and background jobs share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use files::Files;
use http::{HeaderMap, Method};
use router::{path::FilePath, select::MAX_TARGETS};
use subtle::ConstantTimeEq;

use super::{
    access::Record,
    config::Http,
    content::Pace,
    memory::Memory,
    page::{self, Errors, Sessions},
    request::bearer_token,
};

/// The state that all requests share.
pub struct App {
    pub(super) files: Arc<Files>,
    pub(super) counters: Counters,
    pub(super) token: Option<Vec<u8>>,
    pub(super) max_body: u64,
    pub(super) pace: Pace,
    pub(super) access_log: bool,
    /// `None` without a token.
    pub(super) sessions: Option<Sessions>,
    pub(super) errors: Errors,
    /// By slot, so that a target that hangs uses no memory of the others.
    memory: Vec<Memory>,
}

impl App {
    pub(super) fn new(files: Arc<Files>, http: &Http) -> Self {
        Self {
            files,
            counters: Counters::default(),
            token: http.token.clone().map(String::into_bytes),
            max_body: http.max_body,
            pace: Pace::new(http.idle, http.min_body_rate),
            access_log: http.access_log,
            sessions: http.token.as_ref().map(|token| Sessions::new(token.as_bytes(), http.tls.is_spoken())),
            errors: Errors::default(),
            memory: (0..MAX_TARGETS).map(|_| Memory::new()).collect(),
        }
    }

    /// The memory budget of the target of this path.
    pub(super) fn memory(&self, path: &FilePath) -> Memory {
        self.memory[self.files.target_of(path).map_or(0, |target| target.slot) % MAX_TARGETS].clone()
    }

    pub(super) fn record(&self, method: &Method, path: &FilePath) -> Record {
        match self.access_log {
            true => Record::new(method, path, self.files.target_of(path)),
            false => Record::none(),
        }
    }

    /// Whether the request has the token, or a session that opens its address.
    pub(super) fn is_allowed(&self, method: &Method, path: &str, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        // Constant time: the duration must not reveal how much of a token is right.
        bearer_token(headers).is_some_and(|given| given.ct_eq(token).into())
            || page::is_opened_by_session(method, path)
                && self.sessions.as_ref().is_some_and(|sessions| sessions.is_open(headers, SystemTime::now()))
    }

    /// Whether a load balancer may send requests.
    pub(super) fn is_ready(&self) -> bool {
        self.files.is_ready() && !self.counters.is_ending()
    }
}

/// Numbers that belong to no target.
#[derive(Debug, Default)]
pub(super) struct Counters {
    ending: AtomicBool,
    pub connections: AtomicU64,
    pub refused_connections: AtomicU64,
    pub unreadable_lists: AtomicU64,
    pub swept: AtomicU64,
    /// Pages that are open.
    pub streams: AtomicU64,
}

impl Counters {
    pub fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }
}
