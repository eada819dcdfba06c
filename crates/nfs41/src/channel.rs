//! Limits of a session: RFC 8881, section 18.36.

use std::time::Duration;

use crate::attributes::FsLimits;

/// The attributes of the fore channel that CREATE_SESSION negotiated, and what setting the session up has shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChannelAttrs {
    /// `ca_maxrequestsize`.
    pub max_request_bytes: usize,
    /// `ca_maxresponsesize`.
    pub max_response_bytes: usize,
    /// `ca_maxoperations`.
    pub max_operations: u32,
    /// `ca_maxresponsesize_cached`: the largest reply that the server can replay.
    pub max_cached_response_bytes: u32,
    /// `ca_maxrequests`.
    pub slots: u32,
    /// Maximum payload of one READ.
    pub max_read_bytes: u32,
    /// Maximum payload of one WRITE.
    pub max_write_bytes: u32,
    pub lease_time: Duration,
    /// The shortest time between a request and its reply while the session was set up.
    pub round_trip: Duration,
}

impl ChannelAttrs {
    /// Applies the limits of a file system, where the server sends them.
    pub fn limit(&mut self, limits: &FsLimits) {
        let at_most = |own: u32, theirs: Option<u64>| match theirs {
            Some(theirs) if theirs > 0 => own.min(u32::try_from(theirs).unwrap_or(u32::MAX)),
            _ => own,
        };
        self.max_read_bytes = at_most(self.max_read_bytes, limits.max_read_bytes);
        self.max_write_bytes = at_most(self.max_write_bytes, limits.max_write_bytes);
    }
}
