//! Files on several targets: every operation of one path goes through one target, which the path's hash chooses
//! among those that work.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use domain::published::{PublishedList, PublishedTarget};
use tokio::task::AbortHandle;

use crate::{
    error::{Error, Result},
    fence::Fences,
    health::Health,
    prober::keep_probing,
    stats::Stats,
    target::{Conditions, Meta, Page, Part, Reading, Staged, Target, Verdict, Want},
};
use router::{
    path::{DirectoryPath, FilePath},
    table::{Routing, Table, TooManyTargets},
};

/// Who waits for a change waits a little longer than it may take to begin: then it is known whether it did.
const SLACK: Duration = Duration::from_millis(100);

/// The longest time that a start waits for a target that says neither yes nor no.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const START_CHECK_EVERY: Duration = Duration::from_millis(20);
const SETTLED_EVERY: Duration = Duration::from_millis(10);

/// Makes targets that can be used, of those that are published.
pub trait Backend: Send + Sync + 'static {
    /// The target at this place, a number that no other target has meanwhile. It is probed before it is used.
    fn target(&self, target: &PublishedTarget, place: usize) -> Arc<dyn Target>;

    /// How long an operation may take.
    fn deadline(&self) -> Duration;

    /// The whole list, before targets are made of what is new in it: each is another way to the same file system.
    fn published(&self, targets: &[PublishedTarget]) {
        let _ = targets;
    }
}

/// Besides the backend's own.
#[derive(Clone)]
pub struct Options {
    pub routing: Routing,
    /// From one probe of a target to the next.
    pub probe_every: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { routing: Routing::default(), probe_every: Duration::from_secs(2) }
    }
}

/// A target with what is known of it.
pub struct Member {
    pub published: PublishedTarget,
    /// The number in the name of its directory, where it has one.
    pub place: usize,
    pub health: Health,
    pub stats: Stats,
    pub(crate) target: Arc<dyn Target>,
    pub(crate) prober: std::sync::OnceLock<AbortHandle>,
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(prober) = self.prober.get() {
            prober.abort();
        }
    }
}

impl Backend for Box<dyn Backend> {
    fn target(&self, target: &PublishedTarget, place: usize) -> Arc<dyn Target> {
        (**self).target(target, place)
    }

    fn deadline(&self) -> Duration {
        (**self).deadline()
    }

    fn published(&self, targets: &[PublishedTarget]) {
        (**self).published(targets);
    }
}

/// A table with its members, in the same order.
pub(crate) struct Fleet {
    table: Table,
    pub(crate) members: Vec<Arc<Member>>,
}

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum CannotStart {
    #[error(transparent)]
    TooMany(#[from] TooManyTargets),
    #[error("none of the {} mount targets works: {}", .0.len(), .0.join("; "))]
    NoTarget(Vec<String>),
}

/// What [`Files::route`] tells.
pub struct Route {
    pub strategy: &'static str,
    /// The path's own target first; with whether it works.
    pub order: Vec<(PublishedTarget, bool)>,
    /// Where in `order` the path goes now; `None` when no target works.
    pub chosen: Option<usize>,
}

/// The files of one file system, by way of several mount targets.
pub struct Files {
    fleet: Arc<ArcSwap<Fleet>>,
    backend: Box<dyn Backend>,
    options: Options,
    fences: Fences,
    /// Members of this fleet and of earlier ones, as long as there are.
    gone: Mutex<Vec<Weak<Member>>>,
}

impl Files {
    /// Makes the targets, probes each, and gives the files when at least one works. The others are used as soon as
    /// their probes succeed.
    ///
    /// # Errors
    /// [`CannotStart`]: none works, with the reason of each.
    pub async fn start(
        list: PublishedList,
        backend: impl Backend,
        options: Options,
    ) -> std::result::Result<Arc<Self>, CannotStart> {
        let table = Table::new(list, options.routing.clone())?;
        backend.published(table.targets());
        let targets = table.targets().iter().enumerate();
        let members: Vec<_> = targets.map(|(place, target)| member(&backend, target, place)).collect();
        let fleet = Arc::new(ArcSwap::from_pointee(Fleet { table, members: members.clone() }));
        members.iter().for_each(|member| keep_probing(member, &fleet, options.probe_every));
        first_answer(&members).await?;
        let (fences, gone) = (Fences::default(), Mutex::default());
        Ok(Arc::new(Self { fleet, backend: Box::new(backend), options, fences, gone }))
    }

    /// Uses another list from now on. A target that is in both keeps its connections, its health and its counters;
    /// a new one gets paths when its first probe has succeeded; one that is gone ends with the operations that it
    /// has. The same list changes nothing. Whether anything was changed.
    ///
    /// # Errors
    /// [`TooManyTargets`]: the list of before stays.
    pub fn replace(&self, list: PublishedList) -> std::result::Result<bool, TooManyTargets> {
        let before = self.fleet.load();
        if before.table.list() == &list {
            return Ok(false);
        }
        let table = Table::new(list, self.options.routing.clone())?;
        self.backend.published(table.targets());
        let kept = |target: &PublishedTarget| before.members.iter().find(|member| member.published == *target).cloned();
        // One that is gone has its place until its last operation has ended.
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.extend(before.members.iter().map(Arc::downgrade));
        gone.retain(|member| member.strong_count() > 0);
        let mut places: BTreeSet<_> = gone.iter().filter_map(|member| Some(member.upgrade()?.place)).collect();
        let mut free = || {
            let place = (0..).find(|place| !places.contains(place)).unwrap_or_default();
            places.insert(place);
            place
        };
        let made = |target: &PublishedTarget| {
            let member = member(&*self.backend, target, free());
            keep_probing(&member, &self.fleet, self.options.probe_every);
            member
        };
        let mut made = made;
        let members = table.targets().iter().map(|target| kept(target).unwrap_or_else(|| made(target))).collect();
        self.fleet.store(Arc::new(Fleet { table, members }));
        Ok(true)
    }

    /// The targets, in the order in which they were published.
    pub fn members(&self) -> Vec<Arc<Member>> {
        self.fleet.load().members.clone()
    }

    /// The name of the strategy.
    pub fn strategy(&self) -> &'static str {
        self.options.routing.strategy.name()
    }

    /// Does any target work?
    pub fn is_ready(&self) -> bool {
        self.fleet.load().members.iter().any(|member| member.health.is_up())
    }

    /// Where a path goes, and where it would go next. Touches nothing.
    pub fn route(&self, path: &[u8]) -> Route {
        let fleet = self.fleet.load();
        let order: Vec<_> = fleet.table.order(path).iter().map(|index| &fleet.members[index]).collect();
        let order: Vec<_> = order.iter().map(|member| (member.published.clone(), member.health.is_up())).collect();
        let chosen = order.iter().position(|(_, up)| *up);
        Route { strategy: fleet.table.strategy().name(), order, chosen }
    }

    /// How long an operation may take.
    pub fn deadline(&self) -> Duration {
        self.backend.deadline()
    }

    /// The target that a path goes to now; `None` when none works.
    pub fn target_of(&self, path: &FilePath) -> Option<Arc<Member>> {
        self.member(path.as_bytes()).ok()
    }

    /// The member that a path goes to now.
    ///
    /// # Errors
    /// [`Error::NoTarget`]
    fn member(&self, path: &[u8]) -> Result<Arc<Member>> {
        let fleet = self.fleet.load();
        let usable = |index: usize| fleet.members[index].health.is_up();
        let index = fleet.table.first(path, &usable).ok_or(Error::NoTarget)?;
        Ok(Arc::clone(&fleet.members[index]))
    }

    /// The whole of a file, which must not be larger than `most` bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`] and whatever [`Files::open`] says.
    pub async fn read(&self, path: &FilePath, most: u64) -> Result<Bytes> {
        self.read_wanted(path, Want::default(), most).await
    }

    /// `length` bytes from `from` on, or as many as there are.
    ///
    /// # Errors
    /// Whatever [`Files::open`] says.
    pub async fn read_part(&self, path: &FilePath, from: u64, length: u64) -> Result<Bytes> {
        let last = match length {
            0 => return self.stat(path).await.map(|_| Bytes::new()),
            length => from.saturating_add(length - 1),
        };
        let want = Want { part: Some(Part::From(from, Some(last))), ..Want::default() };
        self.read_wanted(path, want, length).await
    }

    async fn read_wanted(&self, path: &FilePath, want: Want, most: u64) -> Result<Bytes> {
        let opened = self.open(path, &want).await?;
        let length = match opened.reading.verdict {
            Verdict::Content { from, to, .. } => to - from,
            _ => 0,
        };
        if length > most {
            return Err(Error::TooLarge(most));
        }
        let Reading { first, rest: Some(mut rest), .. } = opened.reading else {
            return Ok(opened.reading.first);
        };
        let mut content = BytesMut::with_capacity(usize::try_from(length).unwrap_or_default());
        content.extend_from_slice(&first);
        while (content.len() as u64) < length {
            let (bytes, more) = rest.next().await?;
            opened.member.stats.read(bytes.len());
            content.extend_from_slice(&bytes);
            rest = more;
        }
        Ok(content.freeze())
    }

    /// Opens a file to read it in pieces, or to look at its properties.
    ///
    /// # Errors
    /// [`Error::NotFound`] and others of the path; [`Error::Busy`], [`Error::Deadline`] of its target.
    pub async fn open(&self, path: &FilePath, want: &Want) -> Result<Opened> {
        let member = self.member(path.as_bytes())?;
        let began = Instant::now();
        let reading = match member.target.read_now(path, want) {
            Some(answer) => answer,
            None => member.target.read(path, want).await,
        };
        let reading = member.done(began, reading)?;
        member.stats.read(reading.first.len());
        Ok(Opened { member, reading })
    }

    /// The properties of a file.
    ///
    /// # Errors
    /// As [`Files::open`].
    pub async fn stat(&self, path: &FilePath) -> Result<Meta> {
        Ok(self.open(path, &Want { only_meta: true, ..Want::default() }).await?.reading.meta)
    }

    /// Is there such a file?
    ///
    /// # Errors
    /// As [`Files::open`], but for [`Error::NotFound`] and what says that a directory on the way is none.
    pub async fn exists(&self, path: &FilePath) -> Result<bool> {
        match self.stat(path).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound | Error::NotADirectory) => Ok(false),
            Err(why) => Err(why),
        }
    }

    /// Puts a new content into its place at once; makes the directories above it. Whoever reads sees the old
    /// content or the new one, whole.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`]; [`Error::Fenced`] and [`Error::Busy`], when nothing has happened;
    /// [`Error::Deadline`], when nothing has happened either; [`Error::Uncertain`], when it has happened or never will;
    /// [`Error::Pending`], when it may still happen.
    pub async fn write(&self, path: &FilePath, content: Bytes, conditions: Conditions) -> Result<Written> {
        let member = self.member(path.as_bytes())?;
        let (length, name) = (content.len(), path.clone());
        let change = |member: Arc<Member>| async move { member.target.put(&name, content, conditions).await };
        let (meta, new) = self.change(path, &member, change).await?;
        member.stats.written(length);
        Ok(Written { member, meta, new })
    }

    /// Begins to write a content that comes in pieces.
    ///
    /// # Errors
    /// As [`Files::write`].
    pub async fn begin(self: &Arc<Self>, path: &FilePath) -> Result<Upload> {
        let member = self.member(path.as_bytes())?;
        let began = Instant::now();
        let staged = member.done(began, member.target.stage(path).await)?;
        Ok(Upload { files: Arc::clone(self), path: path.clone(), member, staged })
    }

    /// Adds to the end of a file; makes it if there is none. All of it or nothing, unless this process or its
    /// machine dies meanwhile.
    ///
    /// # Errors
    /// As [`Files::write`].
    pub async fn append(&self, path: &FilePath, content: Bytes, conditions: Conditions) -> Result<Written> {
        let member = self.member(path.as_bytes())?;
        let (length, name) = (content.len(), path.clone());
        let change = |member: Arc<Member>| async move { member.target.append(&name, content, conditions).await };
        let (meta, new) = self.change(path, &member, change).await?;
        member.stats.written(length);
        Ok(Written { member, meta, new })
    }

    /// Removes a file. The directory that it was in stays.
    ///
    /// # Errors
    /// [`Error::NotFound`], and as [`Files::write`].
    pub async fn delete(&self, path: &FilePath, conditions: Conditions) -> Result<Arc<Member>> {
        let member = self.member(path.as_bytes())?;
        let name = path.clone();
        let change = |member: Arc<Member>| async move { member.target.delete(&name, conditions).await };
        self.change(path, &member, change).await?;
        Ok(member)
    }

    /// At most `limit` entries of a directory, in no order, from `place` on, an earlier page's `next`. Going on in
    /// this way meets everything that was there from beginning to end exactly once.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::BadPlace`], and as [`Files::open`].
    pub async fn list(
        &self,
        directory: &DirectoryPath,
        place: Option<u64>,
        limit: usize,
    ) -> Result<(Page, Arc<Member>)> {
        let member = self.member(directory.as_bytes())?;
        let began = Instant::now();
        let page = member.target.list(directory, place, limit.max(1)).await;
        Ok((member.done(began, page)?, member))
    }

    /// Removes the temporary files that nobody has written to for `age`, everywhere. Their number.
    pub async fn sweep(&self, age: Duration) -> u64 {
        let Ok(root) = DirectoryPath::new("") else { return 0 };
        let mut removed = 0;
        // The deepest first: no more waits than a step finds on each level.
        let mut waiting = vec![(root, None)];
        while let Some((directory, place)) = waiting.pop() {
            let swept = match self.member(directory.as_bytes()) {
                Ok(member) => member.target.sweep(&directory, place, age).await,
                Err(why) => Err(why),
            };
            match swept {
                Ok(swept) => {
                    removed += swept.removed;
                    waiting.extend(swept.next.map(|next| (directory, Some(next))));
                    waiting.extend(swept.directories.into_iter().map(|directory| (directory, None)));
                }
                // Another time.
                Err(why) => tracing::debug!(?directory, error = %why, "a directory was not swept"),
            }
        }
        removed
    }

    /// Waits until nothing is being changed any more: what has begun ends, also where nobody waits for it.
    pub async fn settled(&self) {
        while !self.fences.are_open() {
            tokio::time::sleep(SETTLED_EVERY).await;
        }
    }

    /// Waits as [`Files::settled`], and closes the targets. Nothing may be asked for afterwards.
    pub async fn close(&self) {
        self.settled().await;
        for member in self.members() {
            if let Some(prober) = member.prober.get() {
                prober.abort();
            }
            if let Err(why) = member.target.close().await {
                tracing::warn!(target_id = %member.published.mount_target_id, error = %why, "a target could not be closed");
            }
        }
    }

    /// Does a change in its turn, in a task of its own: it goes on to its end whatever becomes of who asked for it.
    async fn change<T, F>(
        &self,
        path: &FilePath,
        member: &Arc<Member>,
        change: impl FnOnce(Arc<Member>) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let began = Instant::now();
        let deadline = self.backend.deadline();
        let turn = self.fences.enter(path, tokio::time::Instant::now() + deadline).await?;
        let watch = turn.watch();
        let change = change(Arc::clone(member));
        let doing = tokio::spawn(async move {
            let answer = change.await;
            drop(turn);
            answer
        });
        let answer = match tokio::time::timeout(deadline + SLACK, doing).await {
            Ok(Ok(answer)) => {
                watch.ended();
                answer
            }
            // It panicked, or this process ends, or the target says nothing.
            Ok(Err(_)) | Err(_) => Err(Error::Pending),
        };
        member.done(began, answer)
    }
}

/// A file that was opened, and the target that it is read from.
pub struct Opened {
    pub member: Arc<Member>,
    pub reading: Reading,
}

/// A content that is in its place.
pub struct Written {
    pub member: Arc<Member>,
    pub meta: Meta,
    /// There was no file under this path before.
    pub new: bool,
}

/// A content that comes in pieces; given up when it is dropped before [`Upload::commit`].
pub struct Upload {
    files: Arc<Files>,
    path: FilePath,
    member: Arc<Member>,
    staged: Box<dyn Staged>,
}

impl Upload {
    /// The bytes that follow.
    ///
    /// # Errors
    /// As [`Files::write`]; the content is given up.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let length = bytes.len();
        self.staged.write(bytes).await.inspect_err(|why| self.member.broke_off(why))?;
        self.member.stats.written(length);
        Ok(())
    }

    /// All that was written, in memory; with that the content is given up.
    ///
    /// # Errors
    /// As [`Files::open`].
    pub async fn take_back(self) -> Result<Bytes> {
        let Self { member, staged, .. } = self;
        staged.take_back().await.inspect_err(|why| member.broke_off(why))
    }

    /// Puts the content into its place.
    ///
    /// # Errors
    /// As [`Files::write`].
    pub async fn commit(self, conditions: Conditions) -> Result<Written> {
        let Self { files, path, member, staged } = self;
        let change = |_| staged.commit(conditions);
        let (meta, new) = files.change(&path, &member, change).await?;
        Ok(Written { member, meta, new })
    }
}

impl Member {
    /// Connections for requests that there are now; `None` where the kernel has them.
    pub fn connections(&self) -> Option<usize> {
        self.target.connections()
    }

    /// Counts what ended early although it had begun well.
    pub fn broke_off(&self, why: &Error) {
        if why.is_the_targets() {
            self.stats.failed();
        }
    }

    /// Counts an operation that has ended.
    fn done<T>(&self, began: Instant, answer: Result<T>) -> Result<T> {
        match &answer {
            Err(Error::Busy) => self.stats.refused(),
            Err(why) => self.stats.done(began.elapsed(), why.is_the_targets()),
            Ok(_) => {
                let took = began.elapsed();
                self.health.succeeded(began + took);
                self.stats.done(took, false);
            }
        }
        answer
    }
}

fn member(backend: &(impl Backend + ?Sized), target: &PublishedTarget, place: usize) -> Arc<Member> {
    Arc::new(Member {
        published: target.clone(),
        place,
        health: Health::default(),
        stats: Stats::default(),
        target: backend.target(target, place),
        prober: std::sync::OnceLock::new(),
    })
}

/// Waits until one target works, or all say that they do not. One that has not answered yet may still: mounting takes a
/// while, and so does TLS on a small share of a processor.
async fn first_answer(members: &[Arc<Member>]) -> std::result::Result<(), CannotStart> {
    let until = Instant::now() + START_TIMEOUT;
    while !members.iter().any(|member| member.health.is_up()) {
        let all_say_no = members.iter().all(|member| member.health.says_no());
        if all_say_no || Instant::now() > until {
            let why = |member: &Arc<Member>| {
                let why = member.health.why().unwrap_or_else(|| "it has not answered yet".to_owned());
                format!("{} ({}): {why}", member.published.mount_target_id, member.published.ip_address)
            };
            return Err(CannotStart::NoTarget(members.iter().map(why).collect()));
        }
        tokio::time::sleep(START_CHECK_EVERY).await;
    }
    Ok(())
}
