//! The response that lists a directory, generated while the client reads it: a slow client holds one page of the directory
//! and one piece of JSON in memory, however long the listing is.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame};
use serde_json::Value;

use super::link;
use files::{
    Endpoint, Error, Files, Result,
    transport::{BoxFuture, Entry, Page},
};
use router::path::DirectoryPath;

/// Number of entries per request to the target.
const PAGE_ENTRIES: usize = 1000;
/// Size of a piece of JSON.
const PIECE_BYTES: usize = 16 << 10;

/// The remaining entries.
pub(super) struct Listing {
    files: Arc<Files>,
    directory: DirectoryPath,
    /// Entries of the current page that come next.
    text: Vec<u8>,
    entries: VecDeque<Entry>,
    /// The cursor of the next page.
    next: Option<u64>,
    page: Option<BoxFuture<'static, (Page, Arc<Endpoint>)>>,
    /// Number of entries that are left of the limit.
    left: usize,
    is_first: bool,
    is_whole: bool,
}

impl Listing {
    /// A listing of up to `limit` entries, with its first page and the target that it comes from.
    ///
    /// # Errors
    /// As [`Files::list`].
    pub async fn new(
        files: Arc<Files>,
        directory: DirectoryPath,
        cursor: Option<u64>,
        limit: usize,
    ) -> Result<(Self, Arc<Endpoint>)> {
        let (page, endpoint) = files.list(&directory, cursor, limit.min(PAGE_ENTRIES)).await?;
        let shown = Value::from(String::from_utf8_lossy(directory.as_bytes()));
        let text = format!("{{\"directory\":{shown},\"entries\":[").into_bytes();
        let (entries, next) = (VecDeque::new(), None);
        let mut listing =
            Self { files, directory, text, entries, next, page: None, left: limit, is_first: true, is_whole: false };
        listing.turn(page);
        Ok((listing, endpoint))
    }

    /// The body; with Content-Length if it is one piece.
    pub fn body(mut self) -> Body {
        self.say();
        match self.is_whole {
            true => Body::from(self.text),
            false => Body::new(self),
        }
    }

    fn turn(&mut self, page: Page) {
        self.left = self.left.saturating_sub(page.entries.len());
        (self.entries, self.next) = (page.entries.into(), page.next);
    }

    /// Writes the next piece of JSON.
    fn say(&mut self) {
        while self.text.len() < PIECE_BYTES
            && let Some(entry) = self.entries.pop_front()
        {
            if !std::mem::take(&mut self.is_first) {
                self.text.push(b',');
            }
            let entry = link::entry(&self.directory, &entry);
            // Strings in a struct: there is nothing here that serde_json can refuse.
            let _ = serde_json::to_writer(&mut self.text, &entry);
        }
        if self.entries.is_empty() && (self.next.is_none() || self.left == 0) && !self.is_whole {
            // A string: JavaScript numbers hold 53 bits.
            let next = Value::from(self.next.map(|cursor| cursor.to_string()));
            self.text.extend_from_slice(format!("],\"next\":{next}}}").as_bytes());
            self.is_whole = true;
        }
    }

    /// Requests the next page if entries are left.
    fn poll_page(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        while self.text.is_empty() && !self.is_whole {
            if self.entries.is_empty() {
                let (files, directory) = (Arc::clone(&self.files), self.directory.clone());
                let (cursor, limit) = (self.next, self.left);
                let page = self.page.get_or_insert_with(|| {
                    Box::pin(async move { files.list(&directory, cursor, limit.min(PAGE_ENTRIES)).await })
                });
                let answer = ready!(page.as_mut().poll(context));
                self.page = None;
                self.turn(answer?.0);
            }
            self.say();
        }
        Poll::Ready(Ok(()))
    }
}

impl HttpBody for Listing {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        if let Err(err) = ready!(self.poll_page(context)) {
            return Poll::Ready(Some(Err(err)));
        }
        let text = std::mem::take(&mut self.text);
        Poll::Ready((!text.is_empty()).then(|| Ok(Frame::data(text.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_whole && self.text.is_empty()
    }
}
