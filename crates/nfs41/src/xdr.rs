//! External Data Representation (RFC 4506): big-endian words of four bytes. Every length is checked against what is there.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::{Error, Result};

const TRUNCATED: Error = Error::Protocol("a reply is truncated");

/// Encodes values into a buffer.
pub(crate) trait Encode {
    fn word(&mut self, value: u32) -> &mut Self;
    fn long(&mut self, value: u64) -> &mut Self;
    /// Bytes of a fixed length, which is a multiple of four.
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
        // No name, handle or data has 4 GiB.
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

/// Number of zeros that follow `length` bytes.
pub(crate) fn padding(length: usize) -> usize {
    length.wrapping_neg() % 4
}

/// Decodes a reply from its front.
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

    /// Shares the memory of the whole reply.
    pub fn opaque(&mut self, max_bytes: usize) -> Result<Bytes> {
        let length = self.word()? as usize;
        if length > max_bytes {
            return Err(Error::Protocol("a field is too long"));
        }
        if length + padding(length) > self.0.len() {
            return Err(TRUNCATED);
        }
        let bytes = self.0.split_to(length);
        self.0.advance(padding(length));
        Ok(bytes)
    }

    /// The first two words of a bitmap. The others must be zero.
    pub fn bitmap(&mut self) -> Result<[u32; 2]> {
        let mut words = [0; 2];
        // RFC 8881 defines attributes up to the third word.
        let length = self.word()?;
        if length > 8 {
            return Err(Error::Protocol("a bitmap is too long"));
        }
        for index in 0..length as usize {
            let word = self.word()?;
            match words.get_mut(index) {
                Some(slot) => *slot = word,
                None if word != 0 => {
                    return Err(Error::Protocol("the server sent an attribute that was not requested"));
                }
                None => {}
            }
        }
        Ok(words)
    }
}
