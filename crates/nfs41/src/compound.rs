//! Several operations in one call: RFC 8881, section 2.3. What an operation works on is what the one before it left
//! as the current file handle and the current stateid, so that a whole path is one round trip.

use bytes::{Bytes, BytesMut};

use crate::{
    attributes::{self, AttributeMask, Expected, FileType, SetAttributes},
    error::{Error, Result},
    op::Op,
    status::Status,
    xdr::{Decoder, Encode, padding},
};

/// A content up to this is copied into the call; a larger one is sent from where it is.
const COPY_THRESHOLD_BYTES: usize = 16 << 10;
/// A file handle is at most that long (RFC 8881, section 3.1).
const MAX_HANDLE_BYTES: usize = 128;

/// What the server calls something that is open or locked.
pub(crate) type Stateid = [u8; 16];
/// The one that the operation before has left (RFC 8881, section 16.2.3.1.2).
pub(crate) const CURRENT: Stateid = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// None at all: whoever may read a file reads it without opening it (RFC 8881, section 8.2.3).
pub(crate) const ANONYMOUS: Stateid = [0; 16];

/// How a file that is opened is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Create {
    /// It must be there.
    Never,
    /// Where there is none yet, with these permissions.
    Unchecked(u32),
    /// It must not be there.
    Guarded(u32),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ShareAccess {
    Read = 1,
    ReadWrite = 3,
}

/// Whether what was written is on stable storage when the server answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StableHow {
    /// After a commit only.
    Unstable = 0,
    /// Content and properties.
    FileSync = 2,
}

/// No delegation, please: `OPEN4_SHARE_ACCESS_WANT_NO_DELEG`.
const WANT_NO_DELEG: u32 = 0x400;

/// Which owner an open file is of: two opens of one file by one owner are one for the server, so that whoever closes
/// first takes it from the other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum OpenOwner {
    /// For what is closed in the same compound: nothing else is done in its slot meanwhile.
    Slot,
    /// For what stays open.
    Unique(u32),
}

/// Where the number of the client and that of the slot go when they are known.
struct OwnerField {
    offset: usize,
    owner: OpenOwner,
}

/// Operations to be sent.
pub(crate) struct Compound {
    operations: u32,
    head: BytesMut,
    payload: Bytes,
    tail: BytesMut,
    owners: Vec<OwnerField>,
    /// The server shall keep its answer, to give it again: something is changed.
    pub cache_this: bool,
    /// Something may be open or locked when it ends, whoever waits for that.
    pub opens_state: bool,
}

impl Compound {
    pub fn new() -> Self {
        Self {
            operations: 0,
            head: BytesMut::with_capacity(512),
            payload: Bytes::new(),
            tail: BytesMut::new(),
            owners: Vec::new(),
            cache_this: false,
            opens_state: false,
        }
    }

    pub fn begin_op(&mut self, op: Op) -> &mut BytesMut {
        self.operations += 1;
        let buffer = if self.payload.is_empty() { &mut self.head } else { &mut self.tail };
        buffer.word(op as u32)
    }

    pub fn operations(&self) -> u32 {
        self.operations
    }

    /// So many bytes, without what goes before every compound.
    pub fn len(&self) -> usize {
        self.head.len() + self.payload.len() + self.tail.len()
    }

    pub fn lookup(&mut self, name: &[u8]) -> &mut Self {
        self.begin_op(Op::LOOKUP).opaque(name);
        self
    }

    pub fn putfh(&mut self, handle: &[u8]) -> &mut Self {
        self.begin_op(Op::PUTFH).opaque(handle);
        self
    }

    pub fn op(&mut self, op: Op) -> &mut Self {
        self.begin_op(op);
        self
    }

    pub fn getattr(&mut self, wanted: AttributeMask) -> &mut Self {
        self.begin_op(Op::GETATTR).bitmap(wanted.0);
        self
    }

    pub fn setattr(&mut self, stateid: &Stateid, set: &SetAttributes) -> &mut Self {
        let buffer = self.begin_op(Op::SETATTR).fixed(stateid);
        set.encode(buffer);
        self.cache_this = true;
        self
    }

    /// Always before a content: see [`OwnerField`].
    pub fn open(&mut self, name: &[u8], share: ShareAccess, create: Create, owner: OpenOwner) -> &mut Self {
        self.begin_op(Op::OPEN).word(0).word(share as u32 | WANT_NO_DELEG).word(0);
        self.owner(owner);
        let buffer = &mut self.head;
        let mode = match create {
            Create::Never => {
                buffer.word(0);
                None
            }
            Create::Unchecked(mode) => {
                buffer.word(1).word(0);
                Some(mode)
            }
            Create::Guarded(mode) => {
                buffer.word(1).word(1);
                Some(mode)
            }
        };
        if let Some(mode) = mode {
            SetAttributes::mode(mode).encode(buffer);
        }
        buffer.word(0).opaque(name);
        (self.cache_this, self.opens_state) = (true, true);
        self
    }

    /// What is the current file, to be read.
    pub fn open_current(&mut self, owner: OpenOwner) -> &mut Self {
        const THIS: u32 = 4;
        self.begin_op(Op::OPEN).word(0).word(ShareAccess::Read as u32 | WANT_NO_DELEG).word(0);
        self.owner(owner);
        self.head.word(0).word(THIS);
        (self.cache_this, self.opens_state) = (true, true);
        self
    }

    /// The client's number, and who of it.
    fn owner(&mut self, owner: OpenOwner) {
        self.owners.push(OwnerField { offset: self.head.len(), owner });
        self.head.long(0).word(8).long(0);
    }

    /// All of the file, so that nobody else has a lock of it.
    pub fn lock(&mut self, open: &Stateid, owner: u32) -> &mut Self {
        const WRITE_LOCK: u32 = 2;
        self.begin_op(Op::LOCK).word(WRITE_LOCK).word(0).long(0).long(u64::MAX).word(1).word(0).fixed(open).word(0);
        self.owner(OpenOwner::Unique(owner));
        (self.cache_this, self.opens_state) = (true, true);
        self
    }

    pub fn unlock(&mut self, lock: &Stateid) -> &mut Self {
        self.begin_op(Op::LOCKU).word(2).word(0).fixed(lock).long(0).long(u64::MAX);
        self.cache_this = true;
        self
    }

    pub fn close(&mut self, open: &Stateid) -> &mut Self {
        self.begin_op(Op::CLOSE).word(0).fixed(open);
        self.cache_this = true;
        self
    }

    pub fn read(&mut self, stateid: &Stateid, offset: u64, length: u32) -> &mut Self {
        self.begin_op(Op::READ).fixed(stateid).long(offset).word(length);
        self
    }

    /// One in a compound.
    pub fn write(&mut self, stateid: &Stateid, offset: u64, stable: StableHow, content: &Bytes) -> &mut Self {
        let buffer = self.begin_op(Op::WRITE).fixed(stateid).long(offset).word(stable as u32);
        if content.len() <= COPY_THRESHOLD_BYTES {
            buffer.opaque(content);
        } else {
            buffer.word(u32::try_from(content.len()).unwrap_or(u32::MAX));
            self.tail.extend_from_slice(&[0; 3][..padding(content.len())]);
            self.payload = content.clone();
        }
        self.cache_this = true;
        self
    }

    pub fn commit(&mut self) -> &mut Self {
        self.begin_op(Op::COMMIT).long(0).word(0);
        self
    }

    pub fn op_with_name(&mut self, op: Op, name: &[u8]) -> &mut Self {
        self.begin_op(op).opaque(name);
        self.cache_this = true;
        self
    }

    /// Goes on only if the current file is so.
    pub fn verify(&mut self, expected: &Expected<'_>) -> &mut Self {
        for part in expected.parts() {
            let buffer = self.begin_op(Op::VERIFY);
            part.encode(buffer);
        }
        self
    }

    /// Goes on if it is a plain file only.
    pub fn verify_regular_file(&mut self) -> &mut Self {
        self.verify(&Expected { file_type: Some(FileType::File), ..Expected::default() })
    }

    pub fn rename(&mut self, from: &[u8], to: &[u8]) -> &mut Self {
        self.begin_op(Op::RENAME).opaque(from).opaque(to);
        self.cache_this = true;
        self
    }

    pub fn create_directory(&mut self, name: &[u8], mode: u32) -> &mut Self {
        const DIRECTORY: u32 = 2;
        let buffer = self.begin_op(Op::CREATE).word(DIRECTORY).opaque(name);
        SetAttributes::mode(mode).encode(buffer);
        self.cache_this = true;
        self
    }

    pub fn readdir(&mut self, cookie: u64, verifier: [u8; 8], max_bytes: u32, wanted: AttributeMask) -> &mut Self {
        // The first number counts names and cookies only, and is a hint.
        self.begin_op(Op::READDIR).long(cookie).fixed(&verifier).word(max_bytes).word(max_bytes).bitmap(wanted.0);
        self
    }

    /// In the session's slot. `before` is what goes before every compound of the connection, up to its tag.
    pub fn encode_in_session(&self, rpc_header: &[u8], sequence: &Sequence) -> Message {
        let mut head = BytesMut::with_capacity(rpc_header.len() + self.head.len() + 64);
        head.fixed(rpc_header);
        head[4..8].copy_from_slice(&sequence.xid.to_be_bytes());
        head.word(self.operations + 1).word(Op::SEQUENCE as u32).fixed(&sequence.session_id).word(sequence.seqid);
        head.word(sequence.slot).word(sequence.highest_slot).word(self.cache_this.into());
        let start = head.len();
        head.fixed(&self.head);
        for field in &self.owners {
            let at = start + field.offset;
            let owner = match field.owner {
                OpenOwner::Slot => u64::from(sequence.slot),
                OpenOwner::Unique(number) => 1 << 32 | u64::from(number),
            };
            head[at..at + 8].copy_from_slice(&sequence.client_id.to_be_bytes());
            head[at + 12..at + 20].copy_from_slice(&owner.to_be_bytes());
        }
        Message::new(head, self.payload.clone(), self.tail.clone().freeze())
    }

    /// Without a session, before there is one.
    pub fn encode_without_session(&self, rpc_header: &[u8], xid: u32) -> Message {
        let mut head = BytesMut::with_capacity(rpc_header.len() + self.head.len() + 4);
        head.fixed(rpc_header);
        head[4..8].copy_from_slice(&xid.to_be_bytes());
        head.word(self.operations).fixed(&self.head);
        Message::new(head, Bytes::new(), Bytes::new())
    }
}

/// What the first operation in a session says.
pub(crate) struct Sequence {
    pub xid: u32,
    pub session_id: [u8; 16],
    pub client_id: u64,
    pub slot: u32,
    pub seqid: u32,
    pub highest_slot: u32,
}

/// A call as it goes over the wire.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub head: Bytes,
    pub payload: Bytes,
    pub tail: Bytes,
}

impl Message {
    fn new(mut head: BytesMut, payload: Bytes, tail: Bytes) -> Self {
        /// The last fragment of a record (RFC 5531, section 11), and the only one.
        const LAST_FRAGMENT: u32 = 1 << 31;
        let length = head.len() - 4 + payload.len() + tail.len();
        // A call is at most as long as the session lets it be.
        let mark = u32::try_from(length).unwrap_or(u32::MAX) | LAST_FRAGMENT;
        head[..4].copy_from_slice(&mark.to_be_bytes());
        Self { head: head.freeze(), payload, tail }
    }
}

/// What goes before every compound: the record's mark, the call's number, which procedure, who asks, an empty tag and
/// the minor version.
pub(crate) fn rpc_header(credentials: &[u8]) -> Bytes {
    const UNKNOWN_YET: u32 = 0;
    let (call, rpc, nfs, version, compound, sys, none, minor) = (0, 2, 100_003, 4, 1, 1, 0, 1);
    let mut bytes = BytesMut::with_capacity(128);
    bytes.word(UNKNOWN_YET).word(UNKNOWN_YET).word(call).word(rpc).word(nfs).word(version).word(compound);
    bytes.word(sys).opaque(credentials).word(none).opaque(&[]);
    bytes.opaque(&[]).word(minor);
    bytes.freeze()
}

/// What a WRITE has done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct WriteReply {
    /// Maybe fewer than it was given.
    pub bytes: u32,
    /// On stable storage, with the properties; else after a COMMIT only.
    pub is_stable: bool,
    /// Another one when the server has begun anew.
    pub verifier: [u8; 8],
}

/// The answers to a compound's operations, one after the other.
#[derive(Debug)]
pub(crate) struct CompoundReply(pub Decoder);

impl CompoundReply {
    /// The next one's answer, if it went well.
    pub fn expect(&mut self, op: Op) -> Result<&mut Decoder> {
        let (found, status) = (self.0.word()?, Status(self.0.word()?));
        // Of an operation that it does not know, a server may answer with the number for that.
        let unknown = found == Status::OP_ILLEGAL.0 && !status.ok();
        if found != op as u32 && !unknown {
            return Err(Error::Protocol("a reply is for another operation than the request"));
        }
        match status.ok() {
            true => Ok(&mut self.0),
            false => Err(Error::Status { op, status }),
        }
    }

    /// Of those that answer nothing but yes.
    pub fn expect_all(&mut self, ops: &[Op]) -> Result<()> {
        ops.iter().try_for_each(|op| self.expect(*op).map(drop))
    }

    pub fn verified(&mut self, expected: &Expected<'_>) -> Result<()> {
        expected.parts().try_for_each(|_| self.expect(Op::VERIFY).map(drop))
    }

    pub fn attributes(&mut self) -> Result<attributes::Attributes> {
        attributes::decode(self.expect(Op::GETATTR)?)
    }

    pub fn handle(&mut self) -> Result<Bytes> {
        // Of a copy: it is kept longer than the rest of the answer.
        Ok(Bytes::copy_from_slice(&self.expect(Op::GETFH)?.opaque(MAX_HANDLE_BYTES)?))
    }

    pub fn opened(&mut self) -> Result<Stateid> {
        let reply = self.expect(Op::OPEN)?;
        let stateid = reply.fixed()?;
        change(reply)?;
        reply.skip(4)?;
        reply.bitmap()?;
        match reply.word()? {
            0 => {}
            // Why there is none; of two of the reasons with one word more.
            3 => {
                if let 1 | 2 = reply.word()? {
                    reply.skip(4)?;
                }
            }
            _ => return Err(Error::Protocol("a delegation has come that nobody asked for")),
        }
        Ok(stateid)
    }

    pub fn stateid(&mut self, op: Op) -> Result<Stateid> {
        self.expect(op)?.fixed()
    }

    pub fn set(&mut self) -> Result<()> {
        self.expect(Op::SETATTR)?.bitmap().map(drop)
    }

    pub fn written(&mut self) -> Result<WriteReply> {
        const FILE_SYNC: u32 = 2;
        let reply = self.expect(Op::WRITE)?;
        Ok(WriteReply { bytes: reply.word()?, is_stable: reply.word()? == FILE_SYNC, verifier: reply.fixed()? })
    }

    pub fn committed(&mut self) -> Result<[u8; 8]> {
        self.expect(Op::COMMIT)?.fixed()
    }

    pub fn renamed(&mut self) -> Result<()> {
        let reply = self.expect(Op::RENAME)?;
        change(reply)?;
        change(reply)
    }

    /// Of what changes one directory.
    pub fn changed(&mut self, op: Op) -> Result<()> {
        let reply = self.expect(op)?;
        change(reply)?;
        if op == Op::CREATE {
            reply.bitmap()?;
        }
        Ok(())
    }
}

/// The directory's number of changes before and after, and whether nothing came between.
fn change(reply: &mut Decoder) -> Result<()> {
    reply.skip(20)
}
