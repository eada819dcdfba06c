//! The access log: one line per operation on a file, written when it ends.

use std::{sync::Arc, time::Instant};

use http::{Method, StatusCode};

use files::Endpoint;
use router::path::FilePath;

/// What is known of an operation so far, written on drop. Empty without an access log.
pub(super) struct Record(Option<Box<Known>>);

struct Known {
    method: Method,
    path: FilePath,
    target: Option<Arc<Endpoint>>,
    status: StatusCode,
    outcome: &'static str,
    bytes: u64,
    began: Instant,
}

impl Record {
    /// A record that is never written.
    pub fn none() -> Self {
        Self(None)
    }

    pub fn new(method: &Method, path: &FilePath, target: Option<Arc<Endpoint>>) -> Self {
        Self(Some(Box::new(Known {
            method: method.clone(),
            path: path.clone(),
            target,
            status: StatusCode::OK,
            // The client disconnected before the operation ended.
            outcome: "Aborted",
            bytes: 0,
            began: Instant::now(),
        })))
    }

    fn known(&mut self, change: impl FnOnce(&mut Known)) {
        if let Some(known) = &mut self.0 {
            change(known);
        }
    }

    pub fn target(&mut self, target: &Arc<Endpoint>) {
        self.known(|known| known.target = Some(Arc::clone(target)));
    }

    pub fn status(&mut self, status: StatusCode) {
        self.known(|known| known.status = status);
    }

    pub fn moved(&mut self, bytes: u64) {
        self.known(|known| known.bytes += bytes);
    }

    pub fn failed(&mut self, code: &'static str) {
        self.known(|known| known.outcome = code);
    }

    pub fn ended(&mut self) {
        self.failed("Done");
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let Some(known) = self.0.take() {
            tracing::info!(
                method = %known.method,
                path = %known.path,
                target_id = known.target.as_ref().map_or("none", |target| target.published.mount_target_id.as_str()),
                status = known.status.as_u16(),
                outcome = known.outcome,
                bytes = known.bytes,
                seconds = known.began.elapsed().as_secs_f64(),
                "file"
            );
        }
    }
}
