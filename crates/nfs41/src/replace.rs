//! How a content that is written under a name of its own gets into its place: by RENAME over what is there, by LINK where
//! there must be nothing, and under a lock of the file where a condition is to be judged.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    attributes::{Attributes, Kind, Set},
    budget::{Backoff, Budget},
    client::{Again, Client, Start},
    compound::{ANONYMOUS, Compound, Create, Op, Results, Share},
    error::{Error, Result},
    open::{File, in_session},
    path::{self, Path},
    put::{Conditions, Kept, Put, TRIES},
    status::Status,
};

/// From one try to tidy up to the next, where there is no connection.
const TIDYING_PAUSE: Duration = Duration::from_secs(1);
/// A pause where the server says later, and has done a part.
const LATER: Duration = Duration::from_millis(50);

/// What is done with a temporary file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// Nothing yet.
    Stay,
    Replace,
    ReplaceFile,
    /// A second name, where there is none, and the first one goes: of several one gets in.
    New,
}

impl Client {
    /// Moves a temporary file, which is whole, to where it shall be, if the conditions hold; else it goes.
    pub(crate) async fn settle(
        &self,
        start: &Start<'_>,
        name: &[u8],
        put: &Put,
        made: &mut Attributes,
        budget: &Budget,
    ) -> Result<()> {
        let settled = match &put.conditions {
            Conditions::None | Conditions::File => self.settle_over(start, name, put, made, budget).await,
            Conditions::New => self.settle_new(start, name, put, made, budget).await,
            Conditions::If(holds) => self.settle_if(start, name, put, made, &**holds, budget).await,
        };
        // If it is not known to be moved, too: then the one or the other comes first, and both are as they should be.
        if settled.is_err() {
            self.tidy(start, &put.temporary, budget).await;
        }
        settled
    }

    /// Where there is nothing.
    async fn settle_new(
        &self,
        start: &Start<'_>,
        name: &[u8],
        put: &Put,
        made: &mut Attributes,
        budget: &Budget,
    ) -> Result<()> {
        self.adopt(start, put, None, made, budget).await?;
        self.step(start, &put.temporary, name, Step::New, budget).await
    }

    /// Over what is there, of which it has the permissions and the owner.
    async fn settle_over(
        &self,
        start: &Start<'_>,
        name: &[u8],
        put: &Put,
        made: &mut Attributes,
        budget: &Budget,
    ) -> Result<()> {
        let mut tries = 0..TRIES;
        let old = loop {
            match self.look(start, name, budget).await {
                Ok(old) => break Some(old).filter(|old| old.kind == Some(Kind::File)),
                Err(Error::Status { op: Op::LOOKUP, status: Status::NOENT }) => break None,
                // Replaced between its name and what was asked of it.
                Err(why) if why.is_gone() && tries.next().is_some() => {}
                Err(why) => return Err(why),
            }
        };
        self.adopt(start, put, old.as_ref(), made, budget).await?;
        let step = if let Conditions::File = put.conditions { Step::ReplaceFile } else { Step::Replace };
        self.step(start, &put.temporary, name, step, budget).await
    }

    /// Gives a temporary file what the one has that it will replace. Who may not give it away keeps it.
    async fn adopt(
        &self,
        start: &Start<'_>,
        put: &Put,
        old: Option<&Attributes>,
        made: &mut Attributes,
        budget: &Budget,
    ) -> Result<()> {
        let mut set = Kept::difference(old, made, put.mode);
        while set != Set::default() {
            match self.set_at(start, &put.temporary, &set, budget).await {
                Ok(()) => {
                    made.mode = set.mode.or(made.mode);
                    made.owner = set.owner.or(made.owner.take());
                    made.group = set.group.or(made.group.take());
                    // Another one by now.
                    made.change = None;
                    return Ok(());
                }
                Err(Error::Status { op: Op::SETATTR, .. }) if set.owner.is_some() || set.group.is_some() => {
                    (set.owner, set.group) = (None, None);
                }
                Err(why) => return Err(why),
            }
        }
        Ok(())
    }

    async fn set_at(&self, start: &Start<'_>, name: &[u8], set: &Set, budget: &Budget) -> Result<()> {
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.lookup(name).set(&ANONYMOUS, set);
        let read = |mut results: Results, _| {
            start.walked(&mut results)?;
            results.op(Op::LOOKUP)?;
            results.set()
        };
        self.repeat(&compound, Again::Yes, budget, read).await
    }

    async fn step(&self, start: &Start<'_>, temporary: &[u8], name: &[u8], step: Step, budget: &Budget) -> Result<()> {
        let mut compound = Compound::new();
        start.walk(&mut compound);
        let before: &[Op] = match step {
            Step::New => {
                compound.lookup(temporary);
                &[Op::LOOKUP]
            }
            Step::ReplaceFile => {
                compound.plain(Op::SAVEFH).lookup(name).only_a_file().plain(Op::RESTOREFH);
                &[Op::SAVEFH, Op::LOOKUP, Op::VERIFY, Op::RESTOREFH]
            }
            _ => {
                compound.plain(Op::SAVEFH);
                &[Op::SAVEFH]
            }
        };
        step.ask(&mut compound, start, temporary, name);
        let read = |mut results: Results, _| {
            start.walked(&mut results)?;
            results.plain(before)?;
            step.done(&mut results, start)
        };
        let tidy = self.repeat(&compound, Again::No, budget, read).await.map_err(|why| step.error(why))?;
        if !tidy {
            self.tidy(start, temporary, budget).await;
        }
        Ok(())
    }

    async fn settle_if(
        &self,
        start: &Start<'_>,
        name: &[u8],
        put: &Put,
        made: &mut Attributes,
        holds: &(dyn Fn(Option<&Attributes>) -> bool + Send + Sync),
        budget: &Budget,
    ) -> Result<()> {
        for _ in 0..TRIES {
            let Some((held, attributes)) = self.hold(start, name, put.patience, budget).await? else {
                if !holds(None) {
                    return Err(Error::ConditionFailed);
                }
                match self.settle_new(start, name, put, made, budget).await {
                    // Somebody made it meanwhile: that one is to be judged.
                    Err(Error::ConditionFailed) => continue,
                    other => return other,
                }
            };
            if !holds(Some(&attributes)) {
                held.close().await?;
                return Err(Error::ConditionFailed);
            }
            self.adopt(start, put, Some(&attributes), made, budget).await?;
            match self.replace_held(start, held, put, name, budget).await {
                // Replaced since it was held, by whoever asks for no lock: that one is to be judged.
                Err(why) if why.is_gone() => {}
                Err(Error::Status { op: Op::LINK, status: Status::NOENT }) => {}
                settled => return settled,
            }
        }
        Err(Error::Status { op: Op::LOCK, status: Status::DENIED })
    }

    /// The file of this name, locked, and what it is; `None` when there is none.
    pub(crate) async fn hold(
        &self,
        start: &Start<'_>,
        name: &[u8],
        patience: Duration,
        budget: &Budget,
    ) -> Result<Option<(File, Attributes)>> {
        let until = Instant::now() + patience;
        for _ in 0..TRIES {
            let opened = self.open_at(start, name, Share::Both, Create::No, budget).await;
            let (file, directory) = match opened {
                Ok(opened) => opened,
                Err(Error::Status { op: Op::OPEN, status: Status::NOENT }) => return Ok(None),
                Err(why) if why.is_gone() => continue,
                Err(why) => return Err(why),
            };
            // Looked at when the lock is held, and by the name: whoever had the lock may have replaced the file.
            let (attributes, named) = match file.lock_and_look(&directory, name, until, budget).await {
                Ok(found) => found,
                Err(why) if why.is_gone() => continue,
                Err(why) => return Err(why),
            };
            if named.is_some() && named == attributes.file_id {
                return Ok(Some((file, attributes)));
            }
            file.close().await.or_else(|why| if why.is_gone() { Ok(()) } else { Err(why) })?;
        }
        Err(Error::Status { op: Op::LOCK, status: Status::DENIED })
    }

    /// The file that is held gets another name for as long as this takes: nothing can be asked of a file that has
    /// none any more, not even to unlock it.
    async fn replace_held(
        &self,
        start: &Start<'_>,
        mut held: File,
        put: &Put,
        name: &[u8],
        budget: &Budget,
    ) -> Result<()> {
        let Put { temporary, alias, .. } = put;
        let session = Arc::clone(held.session());
        let (mut linked, mut backoff) = (false, Backoff::new(LATER, LATER * 8));
        let mut rest = loop {
            let mut compound = Compound::new();
            compound.at(&held.handle).plain(Op::SAVEFH);
            start.walk(&mut compound);
            if !linked {
                compound.name(Op::LINK, alias);
            }
            compound.plain(Op::SAVEFH).rename(temporary, name);
            held.end_in(&mut compound);
            start.walk(&mut compound);
            compound.name(Op::REMOVE, alias);
            let read = |mut results: Results| {
                results.op(Op::PUTFH)?;
                results.op(Op::SAVEFH)?;
                start.walked(&mut results)?;
                if !linked {
                    results.changed(Op::LINK)?;
                }
                // It has that name now: what is done again is done without it.
                let moved = results.op(Op::SAVEFH).map(drop).and_then(|()| results.renamed());
                Ok((moved, results))
            };
            match in_session(self, &session, budget, &compound, read).await {
                Ok((Ok(()), rest)) => break rest,
                Ok((Err(why), _)) if why.status().is_some_and(Status::is_later) => {
                    linked = true;
                    if let Err(why) = budget.pause(&mut backoff).await {
                        self.tidy(start, alias, budget).await;
                        return Err(why);
                    }
                }
                Ok((Err(why), _)) | Err(why) => {
                    self.tidy(start, alias, budget).await;
                    return Err(why);
                }
            }
        };
        // It is in its place: what follows only tidies up.
        if held.ended(&mut rest).is_err() || start.walked(&mut rest).is_err() || rest.changed(Op::REMOVE).is_err() {
            let _ = budget.wait(held.close()).await;
            self.tidy(start, alias, budget).await;
        }
        Ok(())
    }

    /// A plain file, if it is as `put` has it; of which the alias and the patience matter besides.
    ///
    /// # Errors
    /// [`Error::ConditionFailed`]; `NOENT`, `ISDIR`, `DENIED`; [`Error::Uncertain`].
    pub async fn remove_if(&self, path: &[u8], put: Put) -> Result<()> {
        let Conditions::If(holds) = put.conditions.clone() else { return self.remove_file(path).await };
        let path = path.to_vec();
        self.to_the_end(true, |client, budget| async move {
            let (directory, name) = Path::new(&path)?.split()?;
            path::check(&put.alias)?;
            let start = client.start(&directory).await?;
            match client.hold(&start, name, put.patience, &budget).await? {
                None if holds(None) => Err(Error::Status { op: Op::REMOVE, status: Status::NOENT }),
                None => Err(Error::ConditionFailed),
                Some((held, attributes)) if holds(Some(&attributes)) => {
                    client.remove_held(&start, held, name, &put.alias, &budget).await
                }
                Some((held, _)) => held.close().await.and(Err(Error::ConditionFailed)),
            }
        })
        .await
    }

    /// By giving it another name first: see [`Client::replace_held`].
    async fn remove_held(
        &self,
        start: &Start<'_>,
        mut held: File,
        name: &[u8],
        alias: &[u8],
        budget: &Budget,
    ) -> Result<()> {
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.plain(Op::SAVEFH).rename(name, alias);
        held.end_in(&mut compound);
        start.walk(&mut compound);
        compound.name(Op::REMOVE, alias);
        let read = |mut results: Results| {
            start.walked(&mut results)?;
            results.op(Op::SAVEFH)?;
            results.renamed()?;
            Ok(results)
        };
        let session = Arc::clone(held.session());
        let mut rest = match in_session(self, &session, budget, &compound, read).await {
            Ok(rest) => rest,
            Err(why) => {
                self.tidy(start, alias, budget).await;
                return Err(why);
            }
        };
        if held.ended(&mut rest).is_err() || start.walked(&mut rest).is_err() || rest.changed(Op::REMOVE).is_err() {
            let _ = budget.wait(held.close()).await;
            self.tidy(start, alias, budget).await;
        }
        Ok(())
    }

    /// Removes a name of this client's own, in a task that goes on when the time is over.
    pub(crate) async fn tidy(&self, start: &Start<'_>, name: &[u8], budget: &Budget) {
        let mut compound = Compound::new();
        start.walk(&mut compound);
        compound.name(Op::REMOVE, name);
        let (client, steps, cleaning) = (self.clone(), start.steps(), self.cleaning());
        let removing = tokio::spawn(async move {
            let _cleaning = cleaning;
            let read = |mut results: Results, _| {
                results.plain(&steps)?;
                results.changed(Op::REMOVE)
            };
            let budget = Budget::cleanup();
            loop {
                match client.repeat(&compound, Again::Yes, &budget, read).await {
                    // There is no connection: there may be one again.
                    Err(Error::Unreachable { .. }) if !budget.is_over() => tokio::time::sleep(TIDYING_PAUSE).await,
                    tidied => return tidied,
                }
            }
        });
        let _ = budget.wait(removing).await;
    }
}

impl Step {
    pub(crate) fn renames(self) -> bool {
        matches!(self, Self::Replace | Self::ReplaceFile)
    }

    /// With the directory saved, and current for `Replace`; with the file current for `New`.
    pub(crate) fn ask(self, compound: &mut Compound, start: &Start<'_>, temporary: &[u8], name: &[u8]) {
        match self {
            Self::Stay => {}
            Self::Replace | Self::ReplaceFile => drop(compound.rename(temporary, name)),
            Self::New => {
                compound.plain(Op::SAVEFH);
                start.walk(compound);
                compound.name(Op::LINK, name).name(Op::REMOVE, temporary);
            }
        }
    }

    /// Whether nothing is left to tidy up.
    pub(crate) fn done(self, results: &mut Results, start: &Start<'_>) -> Result<bool> {
        match self {
            Self::Stay => Ok(true),
            Self::Replace | Self::ReplaceFile => results.renamed().map(|()| true),
            Self::New => {
                results.op(Op::SAVEFH)?;
                start.walked(results)?;
                results.changed(Op::LINK)?;
                // It is in its place, whatever becomes of its first name.
                Ok(results.changed(Op::REMOVE).is_ok())
            }
        }
    }

    pub(crate) fn error(self, why: Error) -> Error {
        match (self, &why) {
            (Self::New, Error::Status { op: Op::LINK, status: Status::EXIST }) => Error::ConditionFailed,
            _ => why,
        }
    }
}
