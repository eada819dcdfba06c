//! The calls that set up and destroy a session: RFC 8881, sections 18.35 to 18.37, 18.50 and 18.51. They are sent one at a
//! time, while nothing else uses the connection.

use std::{io, time::Duration};

use bytes::Bytes;
use tokio::{io::AsyncWriteExt, time::Instant};

use crate::{
    attributes::{AttributeMask, FsLimits},
    budget::Backoff,
    channel::ChannelAttrs,
    compound::{Compound, CompoundReply, Message},
    error::{Error, Result},
    identity::{ClientOwner, ServerIdentity},
    op::Op,
    options::Options,
    path::Path,
    rpc,
    session::Session,
    slot_table::MAX_SLOTS,
    status::Status,
    transport::{BoxedWriter, RecordReader, send},
    xdr::{Decoder, Encode},
};

/// Backoff after NFS4ERR_DELAY and NFS4ERR_GRACE.
const INITIAL_BACKOFF: Duration = Duration::from_millis(20);
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// Upper bound of what a request or reply holds besides the payload of a READ or WRITE.
pub(crate) const RPC_OVERHEAD_BYTES: u32 = 8 << 10;
/// Lower bound of [`Options::max_io_bytes`].
const MIN_IO_BYTES: u32 = 4 << 10;

/// A connection before the first and after the last regular call of its session.
pub(crate) struct Handshake<'a> {
    writer: &'a mut BoxedWriter,
    pub reader: &'a mut RecordReader,
    rpc_header: &'a [u8],
    last_xid: u32,
    /// The shortest time between a request and its reply so far.
    round_trip: Duration,
}

impl<'a> Handshake<'a> {
    pub fn new(writer: &'a mut BoxedWriter, reader: &'a mut RecordReader, rpc_header: &'a [u8]) -> Self {
        Self { writer, reader, rpc_header, last_xid: 0, round_trip: Duration::MAX }
    }

    /// Sets up a session with a new client ID. EXCHANGE_ID uses the same owner with a new verifier, which tells the server
    /// that the client has restarted: it discards the state of the owner's earlier client ID and executes no more of its
    /// calls (RFC 8881, section 18.35.5).
    pub async fn establish(&mut self, origin: &ClientOwner, epoch: u64) -> io::Result<(Session, ServerIdentity)> {
        let (client_id, seqid, server) = self.exchange_id(&origin.id, origin.next_verifier()).await?;
        let (id, mut attrs) = self.create_session(client_id, seqid, &origin.options).await?;
        self.reader.max_record_bytes = attrs.max_response_bytes + RPC_OVERHEAD_BYTES as usize;
        let rpc_header = &origin.rpc_header;
        let session = |attrs, seqid| Session::new(id, client_id, epoch, attrs, rpc_header.clone(), seqid);
        let used = self.finish_setup(&session(attrs, 1), &mut attrs, &origin.options.root).await?;
        Ok((session(attrs, used + 1), server))
    }

    /// Destroys the session and its client ID, and closes the connection.
    pub async fn destroy(&mut self, session: [u8; 16], client_id: u64) -> io::Result<()> {
        // XIDs that no call in the session has used.
        self.last_xid |= 1 << 31;
        let mut compound = Compound::new();
        compound.begin_op(Op::DESTROY_SESSION).fixed(&session);
        self.call(&compound).await?.expect(Op::DESTROY_SESSION)?;
        self.destroy_client_id(client_id).await?;
        self.writer.shutdown().await
    }

    /// Destroys a client ID that has no session.
    pub async fn destroy_client_id(&mut self, client_id: u64) -> io::Result<()> {
        let mut compound = Compound::new();
        compound.begin_op(Op::DESTROY_CLIENTID).long(client_id);
        self.call(&compound).await?.expect(Op::DESTROY_CLIENTID)?;
        Ok(())
    }

    async fn send(&mut self, message: Message) -> io::Result<Decoder> {
        let began = Instant::now();
        send(self.writer, message).await?;
        let mut reply = Decoder(self.reader.next().await?);
        self.round_trip = self.round_trip.min(began.elapsed());
        // Replies to calls of an earlier connection do not arrive on this one.
        if reply.word()? != self.last_xid {
            return Err(Error::Protocol("a reply to a call that was not sent").into());
        }
        rpc::decode_reply_header(&mut reply)?;
        Ok(reply)
    }

    async fn call(&mut self, compound: &Compound) -> io::Result<CompoundReply> {
        self.last_xid += 1;
        let reply = self.send(compound.encode_without_session(self.rpc_header, self.last_xid)).await?;
        Ok(decode_compound_reply(reply)?)
    }

    pub async fn exchange_id(&mut self, owner: &[u8], verifier: u64) -> io::Result<(u64, u32, ServerIdentity)> {
        const USE_NON_PNFS: u32 = 0x1_0000;
        const MAX_ID_BYTES: usize = 1024;
        let mut compound = Compound::new();
        // `eia_clientowner`, `eia_flags`, SP4_NONE, no `eia_client_impl_id`.
        compound.begin_op(Op::EXCHANGE_ID).long(verifier).opaque(owner).word(USE_NON_PNFS).word(0).word(0);
        let mut results = self.call_until_ready(&compound, Op::EXCHANGE_ID).await?;
        let reply = &mut results.0;
        let (client_id, seqid, _flags) = (reply.long()?, reply.word()?, reply.word()?);
        if reply.word()? != 0 {
            return Err(Error::Protocol("it uses a state protection that was not requested").into());
        }
        let owner_minor = reply.long()?;
        let (owner_major, scope) = (reply.opaque(MAX_ID_BYTES)?, reply.opaque(MAX_ID_BYTES)?);
        let implementation = match reply.word()? {
            0 => None,
            _ => {
                let (domain, name) = (reply.opaque(MAX_ID_BYTES)?, reply.opaque(MAX_ID_BYTES)?);
                Some(format!("{} {}", String::from_utf8_lossy(&domain), String::from_utf8_lossy(&name)))
            }
        };
        let copied = |bytes: Bytes| Bytes::copy_from_slice(&bytes);
        Ok((
            client_id,
            seqid,
            ServerIdentity { owner_major: copied(owner_major), owner_minor, scope: copied(scope), implementation },
        ))
    }

    async fn create_session(
        &mut self,
        client_id: u64,
        seqid: u32,
        options: &Options,
    ) -> io::Result<([u8; 16], ChannelAttrs)> {
        const MAX_CACHED_RESPONSE_BYTES: u32 = 4096;
        // NFS-Ganesha grants more than the 100 that it accepts.
        const MAX_OPERATIONS: u32 = 96;
        const BACK_CHANNEL_BYTES: u32 = 4096;
        const BACK_PROGRAM: u32 = 0x4000_0000;
        let largest = options.max_io_bytes.max(MIN_IO_BYTES) + RPC_OVERHEAD_BYTES;
        let mut compound = Compound::new();
        let call = compound.begin_op(Op::CREATE_SESSION);
        call.long(client_id).word(seqid).word(0);
        let slots = options.max_in_flight.clamp(1, MAX_SLOTS);
        call.word(0)
            .word(largest)
            .word(largest)
            .word(MAX_CACHED_RESPONSE_BYTES)
            .word(MAX_OPERATIONS)
            .word(slots)
            .word(0);
        call.word(0).word(BACK_CHANNEL_BYTES).word(BACK_CHANNEL_BYTES).word(0).word(2).word(1).word(0);
        call.word(BACK_PROGRAM).word(1).word(0);
        let mut results = self.call_until_ready(&compound, Op::CREATE_SESSION).await?;
        let reply = &mut results.0;
        let id = reply.fixed()?;
        // `csr_sequence`, `csr_flags` and the fore channel's `ca_headerpadsize`.
        reply.skip(12)?;
        let (max_request_bytes, max_response_bytes) = (reply.word()?.min(largest), reply.word()?.min(largest));
        let (max_cached_response_bytes, max_operations, granted) = (reply.word()?, reply.word()?, reply.word()?);
        if max_request_bytes < RPC_OVERHEAD_BYTES.min(4096)
            || max_response_bytes < RPC_OVERHEAD_BYTES.min(4096)
            || max_operations < 8
            || granted == 0
        {
            return Err(Error::Protocol("it grants a session that is too small").into());
        }
        // Preliminary: the file system's limits are not known yet.
        let io = |largest: u32| {
            if largest > RPC_OVERHEAD_BYTES + MIN_IO_BYTES { largest - RPC_OVERHEAD_BYTES } else { largest / 2 }
        };
        Ok((
            id,
            ChannelAttrs {
                max_request_bytes: max_request_bytes as usize,
                max_response_bytes: max_response_bytes as usize,
                max_operations,
                max_cached_response_bytes,
                slots: granted.min(slots),
                max_read_bytes: io(max_response_bytes),
                max_write_bytes: io(max_request_bytes),
                lease_time: Duration::from_secs(90),
                round_trip: self.round_trip,
            },
        ))
    }

    /// Sends RECLAIM_COMPLETE and asks for the limits of the root's file system. Returns the number of calls that were made
    /// in slot 0.
    async fn finish_setup(&mut self, session: &Session, attrs: &mut ChannelAttrs, root: &[u8]) -> io::Result<u32> {
        let mut used = 0;
        let mut backoff = Backoff::new(INITIAL_BACKOFF, MAX_BACKOFF);
        loop {
            let mut compound = Compound::new();
            compound.begin_op(Op::RECLAIM_COMPLETE).word(0);
            let mut results = self.call_in_session(session, &mut used, &compound).await?;
            match results.expect(Op::RECLAIM_COMPLETE).map(drop) {
                Ok(()) | Err(Error::Status { status: Status::COMPLETE_ALREADY, .. }) => break,
                Err(Error::Status { status, .. }) if status.is_delay() => {}
                Err(err) => return Err(err.into()),
            }
            tokio::time::sleep(backoff.next()).await;
        }
        // The root may be in an export with limits of its own. If it is missing, its users get the error.
        let limits = loop {
            match self.query_limits(session, &mut used, root).await {
                Ok(limits) => break limits,
                Err(Error::Status { status, .. }) if status.is_delay() => tokio::time::sleep(backoff.next()).await,
                Err(Error::Status { .. }) => break self.query_limits(session, &mut used, b"").await?,
                Err(err) => return Err(err.into()),
            }
        };
        attrs.limit(&limits);
        attrs.round_trip = self.round_trip;
        attrs.lease_time = Duration::from_secs(limits.lease.unwrap_or(90).clamp(1, 3600).into());
        Ok(used)
    }

    async fn query_limits(&mut self, session: &Session, used: &mut u32, path: &[u8]) -> Result<FsLimits> {
        let mut compound = Compound::new();
        let names: Vec<_> = Path::new(path)?.components().take(session.attrs.max_operations as usize - 3).collect();
        compound.op(Op::PUTROOTFH);
        for name in &names {
            compound.lookup(name);
        }
        compound.getattr(AttributeMask::LIMITS);
        let mut results = self.call_in_session(session, used, &compound).await.map_err(Error::lost)?;
        results.expect(Op::PUTROOTFH)?;
        names.iter().try_for_each(|_| results.expect(Op::LOOKUP).map(drop))?;
        Ok(results.attributes()?.limits)
    }

    /// Whether the server at this address knows a session that is not in use yet.
    pub async fn knows_session(&mut self, session: &Session) -> io::Result<bool> {
        self.last_xid += 1;
        let message = session.setup_message(&Compound::new(), self.last_xid, session.first_seqid());
        let reply = self.send(message).await?;
        match decode_compound_reply(reply)?.expect(Op::SEQUENCE).map(drop) {
            Ok(()) => Ok(true),
            Err(Error::Status { status, .. }) if status.ends_session() || status.retires_session() => Ok(false),
            Err(err) => Err(err.into()),
        }
    }

    /// Sends a call in slot 0. `used` counts these calls.
    async fn call_in_session(
        &mut self,
        session: &Session,
        used: &mut u32,
        compound: &Compound,
    ) -> io::Result<CompoundReply> {
        self.last_xid += 1;
        *used += 1;
        let reply = self.send(session.setup_message(compound, self.last_xid, *used)).await?;
        let mut results = decode_compound_reply(reply)?;
        results.expect(Op::SEQUENCE)?.skip(36)?;
        Ok(results)
    }

    /// Sends a call, and repeats it while the server answers NFS4ERR_DELAY or NFS4ERR_CLIENTID_BUSY.
    async fn call_until_ready(&mut self, compound: &Compound, op: Op) -> io::Result<CompoundReply> {
        let mut backoff = Backoff::new(INITIAL_BACKOFF, MAX_BACKOFF);
        loop {
            let mut results = self.call(compound).await?;
            match results.expect(op).map(drop) {
                Ok(()) => return Ok(results),
                Err(Error::Status { status, .. }) if status.is_delay() || status == Status::CLIENTID_BUSY => {}
                Err(err) => return Err(err.into()),
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }
}

/// Reads the beginning of a compound's reply: status, tag and number of results.
fn decode_compound_reply(mut reply: Decoder) -> Result<CompoundReply> {
    const MAX_TAG_BYTES: usize = 1024;
    let status = Status(reply.word()?);
    reply.opaque(MAX_TAG_BYTES)?;
    match reply.word()? {
        0 => Err(match status {
            Status::MINOR_VERS_MISMATCH => Error::Refused("it does not support NFS 4.1"),
            _ => Error::Refused("it cannot decode the call"),
        }),
        _ => Ok(CompoundReply(reply)),
    }
}
