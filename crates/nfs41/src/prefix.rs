//! The operations at the beginning of a compound that lead to a directory.

use bytes::Bytes;

use crate::{
    client::Client,
    compound::{Compound, CompoundReply},
    error::Result,
    op::Op,
    path::Path,
};

/// Maximum number of operations of a compound besides the LOOKUPs of its path prefixes, of which it has at most two.
const MAX_NON_LOOKUP_OPS: usize = 22;

/// The operations that lead to a directory or file: PUTROOTFH or PUTFH, and LOOKUPs.
pub(crate) struct PathPrefix<'a> {
    /// Begins here; at the server's root if `None`.
    handle: Option<Bytes>,
    names: Vec<&'a [u8]>,
}

impl<'a> PathPrefix<'a> {
    pub fn new(handle: Option<Bytes>, names: Vec<&'a [u8]>) -> Self {
        Self { handle, names }
    }

    /// The directory with this handle.
    pub fn at_handle(handle: Bytes) -> PathPrefix<'static> {
        PathPrefix::new(Some(handle), Vec::new())
    }

    pub fn handle(&self) -> Option<&Bytes> {
        self.handle.as_ref()
    }

    /// The operations that [`PathPrefix::encode`] adds.
    pub fn ops(&self) -> Vec<Op> {
        std::iter::once(self.first_op()).chain(self.names.iter().map(|_| Op::LOOKUP)).collect()
    }

    fn first_op(&self) -> Op {
        if self.handle.is_none() { Op::PUTROOTFH } else { Op::PUTFH }
    }

    /// Adds the operations to a compound.
    pub fn encode(&self, compound: &mut Compound) {
        match &self.handle {
            None => compound.op(Op::PUTROOTFH),
            Some(handle) => compound.putfh(handle),
        };
        for name in &self.names {
            compound.lookup(name);
        }
    }

    /// Reads the results of the operations.
    pub fn decode(&self, results: &mut CompoundReply) -> Result<()> {
        results.expect(self.first_op())?;
        self.names.iter().try_for_each(|_| results.expect(Op::LOOKUP).map(drop))
    }
}

impl Client {
    /// The prefix that leads to a path. Sends calls only if the path has more components than the server takes in one
    /// compound; the prefix then begins at the handle of a directory on the way.
    pub(crate) async fn path_prefix<'a>(&'a self, path: &Path<'a>) -> Result<PathPrefix<'a>> {
        let root = Path::new(&self.inner.options.root)?;
        let mut prefix = PathPrefix { handle: None, names: root.components().chain(path.components()).collect() };
        let max_operations = self.channel_attrs().await?.max_operations as usize;
        let max_lookups = (max_operations.saturating_sub(MAX_NON_LOOKUP_OPS) / 2).max(1);
        while prefix.names.len() > max_lookups {
            let rest = prefix.names.split_off(max_lookups);
            let mut compound = Compound::new();
            prefix.encode(&mut compound);
            compound.op(Op::GETFH);
            let handle = self.call(&compound, |mut results| {
                prefix.decode(&mut results)?;
                results.handle()
            });
            prefix = PathPrefix { handle: Some(handle.await?), names: rest };
        }
        Ok(prefix)
    }
}
