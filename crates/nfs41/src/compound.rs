//! COMPOUND: several operations in one call (RFC 8881, section 2.3). An operation works on the current file handle and the
//! current stateid that the one before it left, so that a whole path takes one round trip.

use bytes::{Bytes, BytesMut};

use crate::{
    attributes::{self, AttributeMask, Expected, FileType, SetAttributes},
    error::{Error, Result},
    op::Op,
    status::Status,
    xdr::{Decoder, Encode, padding},
};

/// WRITE data up to this size is copied into the call. Larger data is sent from where it is.
const COPY_THRESHOLD_BYTES: usize = 16 << 10;
/// NFS4_FHSIZE (RFC 8881, section 3.1).
const MAX_HANDLE_BYTES: usize = 128;

/// Identifier of open or lock state at the server.
pub(crate) type Stateid = [u8; 16];
/// The current stateid, which the operation before has left (RFC 8881, section 16.2.3.1.2).
pub(crate) const CURRENT: Stateid = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// The anonymous stateid, which needs no OPEN (RFC 8881, section 8.2.3).
pub(crate) const ANONYMOUS: Stateid = [0; 16];

/// Whether OPEN creates the file (`openflag4` and `createhow4`).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Create {
    /// OPEN4_NOCREATE: the file must exist.
    Never,
    /// UNCHECKED4: creates the file with these permissions if it does not exist.
    Unchecked(u32),
    /// GUARDED4: creates the file with these permissions; it must not exist.
    Guarded(u32),
}

/// `OPEN4_SHARE_ACCESS_…`
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ShareAccess {
    Read = 1,
    ReadWrite = 3,
}

/// `stable_how4`: whether written data is on stable storage when the server replies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum StableHow {
    /// UNSTABLE4: only after COMMIT.
    Unstable = 0,
    /// FILE_SYNC4: data and metadata.
    FileSync = 2,
}

/// `OPEN4_SHARE_ACCESS_WANT_NO_DELEG`.
const WANT_NO_DELEG: u32 = 0x400;

/// The open-owner of an OPEN. The server merges two OPENs of one file by one owner, and the first CLOSE then ends both.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum OpenOwner {
    /// One owner per slot, for a file that the same compound closes: the slot has no other call meanwhile.
    Slot,
    /// An owner of its own, for a file that stays open.
    Unique(u32),
}

/// Where the client ID and the slot of an owner are filled in when they are known.
struct OwnerField {
    offset: usize,
    owner: OpenOwner,
}

/// The operations of a call.
pub(crate) struct Compound {
    operations: u32,
    head: BytesMut,
    payload: Bytes,
    tail: BytesMut,
    owners: Vec<OwnerField>,
    /// `sa_cachethis`: the server caches the reply to replay it. Set by operations that change something.
    pub cache_this: bool,
    /// The compound leaves open or lock state, also when its caller no longer waits.
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

    /// Length in bytes, without the RPC header and SEQUENCE.
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

    /// Must precede WRITE: see [`OwnerField`].
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

    /// Opens the current file handle for reading (CLAIM_FH).
    pub fn open_current(&mut self, owner: OpenOwner) -> &mut Self {
        const CLAIM_FH: u32 = 4;
        self.begin_op(Op::OPEN).word(0).word(ShareAccess::Read as u32 | WANT_NO_DELEG).word(0);
        self.owner(owner);
        self.head.word(0).word(CLAIM_FH);
        (self.cache_this, self.opens_state) = (true, true);
        self
    }

    /// Reserves space for an owner: client ID and identifier.
    fn owner(&mut self, owner: OpenOwner) {
        self.owners.push(OwnerField { offset: self.head.len(), owner });
        self.head.long(0).word(8).long(0);
    }

    /// Locks all of the file exclusively.
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

    /// At most one per compound.
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

    /// Continues only if the current file has these attributes.
    pub fn verify(&mut self, expected: &Expected<'_>) -> &mut Self {
        for part in expected.parts() {
            let buffer = self.begin_op(Op::VERIFY);
            part.encode(buffer);
        }
        self
    }

    /// Continues only if the current file is a regular file.
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
        // `dircount` is a hint: bytes of names and cookies.
        self.begin_op(Op::READDIR).long(cookie).fixed(&verifier).word(max_bytes).word(max_bytes).bitmap(wanted.0);
        self
    }

    /// Encodes the call with a SEQUENCE. `rpc_header` is what [`rpc_header`] returns.
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

    /// Encodes the call without SEQUENCE, for the calls that set up or destroy a session.
    pub fn encode_without_session(&self, rpc_header: &[u8], xid: u32) -> Message {
        let mut head = BytesMut::with_capacity(rpc_header.len() + self.head.len() + 4);
        head.fixed(rpc_header);
        head[4..8].copy_from_slice(&xid.to_be_bytes());
        head.word(self.operations).fixed(&self.head);
        Message::new(head, Bytes::new(), Bytes::new())
    }
}

/// The arguments of SEQUENCE, and the XID of its call.
pub(crate) struct Sequence {
    pub xid: u32,
    pub session_id: [u8; 16],
    pub client_id: u64,
    pub slot: u32,
    pub seqid: u32,
    pub highest_slot: u32,
}

/// An encoded call: a record whose payload is not copied.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub head: Bytes,
    pub payload: Bytes,
    pub tail: Bytes,
}

impl Message {
    fn new(mut head: BytesMut, payload: Bytes, tail: Bytes) -> Self {
        /// Marks the last fragment of a record (RFC 5531, section 11). Here it is the only one.
        const LAST_FRAGMENT: u32 = 1 << 31;
        let length = head.len() - 4 + payload.len() + tail.len();
        // `ca_maxrequestsize` limits the length of a call.
        let mark = u32::try_from(length).unwrap_or(u32::MAX) | LAST_FRAGMENT;
        head[..4].copy_from_slice(&mark.to_be_bytes());
        Self { head: head.freeze(), payload, tail }
    }
}

/// The bytes before the operations of every compound: record mark, XID, RPC call header with the credentials, an empty tag
/// and the minor version. Record mark and XID are filled in later.
pub(crate) fn rpc_header(credentials: &[u8]) -> Bytes {
    const UNKNOWN_YET: u32 = 0;
    let (call, rpc, nfs, version, compound, sys, none, minor) = (0, 2, 100_003, 4, 1, 1, 0, 1);
    let mut bytes = BytesMut::with_capacity(128);
    bytes.word(UNKNOWN_YET).word(UNKNOWN_YET).word(call).word(rpc).word(nfs).word(version).word(compound);
    bytes.word(sys).opaque(credentials).word(none).opaque(&[]);
    bytes.opaque(&[]).word(minor);
    bytes.freeze()
}

/// The result of WRITE.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct WriteReply {
    /// Number of bytes written, possibly fewer than were sent.
    pub bytes: u32,
    /// The server replied FILE_SYNC4.
    pub is_stable: bool,
    /// Changes when the server restarts.
    pub verifier: [u8; 8],
}

/// The results of a compound's operations, which are read one after the other.
#[derive(Debug)]
pub(crate) struct CompoundReply(pub Decoder);

impl CompoundReply {
    /// Reads the beginning of the next result, which must be of this operation.
    ///
    /// # Errors
    /// [`Error::Status`]: the operation failed. [`Error::Protocol`].
    pub fn expect(&mut self, op: Op) -> Result<&mut Decoder> {
        let (found, status) = (self.0.word()?, Status(self.0.word()?));
        // A server may reply OP_ILLEGAL to an operation that it does not know.
        let unknown = found == Status::OP_ILLEGAL.0 && !status.ok();
        if found != op as u32 && !unknown {
            return Err(Error::Protocol("a reply is for another operation than the request"));
        }
        match status.ok() {
            true => Ok(&mut self.0),
            false => Err(Error::Status { op, status }),
        }
    }

    /// Reads results that have only a status.
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
        // Copied, because it lives longer than the rest of the reply.
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
            // OPEN_DELEGATE_NONE_EXT: a reason, and for two of the reasons a boolean.
            3 => {
                if let 1 | 2 = reply.word()? {
                    reply.skip(4)?;
                }
            }
            _ => return Err(Error::Protocol("the server granted a delegation that was not requested")),
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

    /// Reads the result of an operation that changes one directory.
    pub fn changed(&mut self, op: Op) -> Result<()> {
        let reply = self.expect(op)?;
        change(reply)?;
        if op == Op::CREATE {
            reply.bitmap()?;
        }
        Ok(())
    }
}

/// Skips a `change_info4`.
fn change(reply: &mut Decoder) -> Result<()> {
    reply.skip(20)
}
