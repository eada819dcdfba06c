//! The external data representation, RFC 4506: what goes over the wire is a row of words of four bytes, big end
//! first. Every length is compared with what is there before it is believed.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::{Error, Result};

const TRUNCATED: Error = Error::Protocol("an answer ends too early");

pub(crate) trait Encode {
    fn word(&mut self, value: u32) -> &mut Self;
    fn long(&mut self, value: u64) -> &mut Self;
    /// Of a length that both sides know, and a multiple of four.
    fn fixed(&mut self, bytes: &[u8]) -> &mut Self;
    fn opaque(&mut self, bytes: &[u8]) -> &mut Self;
    fn bitmap(&mut self, words: [u32; 2]) -> &mut Self;
}

impl Encode for BytesMut {
    fn word(&mut self, value: u32) -> &mut Self {
        self.put_u32(value);
        self
    }

    fn long(&mut self, value: u64) -> &mut Self {
        self.put_u64(value);
        self
    }

    fn fixed(&mut self, bytes: &[u8]) -> &mut Self {
        self.extend_from_slice(bytes);
        self
    }

    fn opaque(&mut self, bytes: &[u8]) -> &mut Self {
        // No caller has a name, a handle or a content of four gigabytes.
        self.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.extend_from_slice(bytes);
        self.put_bytes(0, padding(bytes.len()));
        self
    }

    fn bitmap(&mut self, [first, second]: [u32; 2]) -> &mut Self {
        match (first, second) {
            (0, 0) => self.word(0),
            (first, 0) => self.word(1).word(first),
            (first, second) => self.word(2).word(first).word(second),
        }
    }
}

/// Zeros that follow so many bytes.
pub(crate) fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}

/// Reads from the front of what has come.
#[derive(Clone, Debug)]
pub(crate) struct Decoder(pub Bytes);

impl Decoder {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn word(&mut self) -> Result<u32> {
        self.0.try_get_u32().map_err(|_| TRUNCATED)
    }

    pub fn long(&mut self) -> Result<u64> {
        self.0.try_get_u64().map_err(|_| TRUNCATED)
    }

    pub fn boolean(&mut self) -> Result<bool> {
        Ok(self.word()? != 0)
    }

    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.try_copy_to_slice(&mut bytes).map_err(|_| TRUNCATED)?;
        Ok(bytes)
    }

    pub fn skip(&mut self, length: usize) -> Result<()> {
        if length > self.0.len() {
            return Err(TRUNCATED);
        }
        self.0.advance(length);
        Ok(())
    }

    /// Shares the memory of the whole answer.
    pub fn opaque(&mut self, longest: usize) -> Result<Bytes> {
        let length = self.word()? as usize;
        if length > longest {
            return Err(Error::Protocol("a field is longer than it may be"));
        }
        if length + padding(length) > self.0.len() {
            return Err(TRUNCATED);
        }
        let bytes = self.0.split_to(length);
        self.0.advance(padding(length));
        Ok(bytes)
    }

    /// The first two words of a bitmap; those after them must be zero where they have a meaning for who asked.
    pub fn bitmap(&mut self) -> Result<[u32; 2]> {
        let mut words = [0; 2];
        // Attributes end in the third word; nobody sends eight.
        let length = self.word()?;
        if length > 8 {
            return Err(Error::Protocol("a bitmap is longer than it may be"));
        }
        for index in 0..length as usize {
            let word = self.word()?;
            match words.get_mut(index) {
                Some(slot) => *slot = word,
                None if word != 0 => return Err(Error::Protocol("an attribute has come that nobody asked for")),
                None => {}
            }
        }
        Ok(words)
    }
}
