//! The engine: statements planned against the tables of the definitions in force, and run within limits.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use anyhow::Context;
use datafusion::arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::{CatalogProvider, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider, TableFunctionImpl};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryPool, TrackConsumersPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_plan::{SendableRecordBatchStream, execute_stream};
use datafusion::prelude::{SQLOptions, SessionConfig};
use datafusion::sql::parser::Statement as Parsed;
use datafusion::sql::sqlparser::ast::Statement;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use kilter_runtime::Service;
use tokio::runtime::Runtime;
use tokio::sync::{Mutex as AsyncMutex, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use pgwire::api::Type;

use crate::catalogue::{Catalogue, Question, SCHEMAS};
use crate::command::{self, Command};
use crate::encode::pg_type;
use crate::error::{CANCELED, INTERNAL, NOT_ALLOWED, READ_ONLY, Result, SYNTAX, SqlError, TOO_COMPLEX, TOO_MANY_COLUMNS, UNSUPPORTED};
use crate::functions;
use crate::partials::{ByPieces, Partials};
use crate::rights::{self, Rights};
use crate::scan::Provider;
use crate::sealed::Sealed;
use crate::session::{self, Session};
use crate::tables::{self, COMMENT, Placed, Remembered, SEARCH_PATH};
use crate::utc;

/// What statements may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Memory of all statements together, as far as they sort, group and join.
    pub memory: usize,
    /// Memory of what aggregates have added up of pieces of the logs.
    pub partials: usize,
    /// Bytes on disk of what does not fit into that memory.
    pub disk: u64,
    /// How long one may take.
    pub time: Duration,
    /// Threads that compute, beside those of the stream.
    pub threads: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { memory: 512 << 20, partials: 128 << 20, disk: 4 << 30, time: Duration::from_secs(60), threads: 1 }
    }
}

/// Columns of an answer, as PostgreSQL has it.
pub const COLUMNS: usize = 1664;
/// About what a part of a plan takes, kept for a statement that is prepared.
const PART: usize = 4 << 10;
/// Bytes of a statement's parameters.
const PARAMETERS: usize = 16 << 20;
/// Statements at a time whose rows are not all read.
const STATEMENTS: usize = 128;
/// Scans at a time, of all statements, and questions about the catalogue.
const SCANS: usize = 256;
/// Questions about the catalogue at a time.
const CATALOGUE: usize = 4;
/// Worlds of those who may not see everything that are kept when nobody uses them.
const WORLDS: usize = 16;
/// The part of a statement's time that one of these may take.
const CATALOGUE_PART: u32 = 6;
/// Rows that nobody reads for so long are given up, with the memory and threads that they hold.
const UNREAD: Duration = Duration::from_secs(300);
/// Plans are trees as deep as statements are long.
const STACK: usize = 32 << 20;
/// Of the data folder: what does not fit into memory. Nothing in it outlives the process.
const SPILL: &str = "sql-spill";
/// Between two looks at whether there is something to write down.
const IDLE: Duration = Duration::from_secs(2);

/// The stream and its decisions go first.
fn give_way() {
    #[cfg(target_os = "linux")]
    if let Err(e) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 10) {
        tracing::debug!(error = %e, "a thread for questions has the priority of all others");
    }
}

/// Answers questions about a project.
pub struct Engine {
    service: Sealed<Arc<Service>>,
    limits: Limits,
    memory: Arc<RuntimeEnv>,
    remembered: Remembered,
    /// What else there is, whatever the definitions.
    more: Vec<Placed>,
    partials: Arc<Partials>,
    statements: Arc<Semaphore>,
    catalogue: Arc<Semaphore>,
    /// Threads of its own, so that a heavy question takes none from the stream; none once the engine is dropped.
    threads: Option<Runtime>,
    worlds: Mutex<Worlds>,
}

/// What there is under one set of definitions, for those who have the same rights.
pub struct World {
    service: Sealed<Arc<Service>>,
    rights: Rights,
    state: Sealed<SessionState>,
    tables: BTreeMap<String, &'static str>,
    placed: Vec<Placed>,
    /// Grants of which the log was told that they cannot be given.
    told: Mutex<BTreeSet<String>>,
    pub catalogue: Catalogue,
}

/// The worlds that were made under the definitions in force.
#[derive(Default)]
struct Worlds {
    /// Of those who may see everything.
    whole: Option<Arc<World>>,
    /// Of those who may see what grants say, as long as somebody has one: who asks first makes it, and others with the same rights wait.
    parts: HashMap<Rights, Arc<AsyncMutex<Weak<World>>>>,
    /// Those that stay when nobody has them; who was asked about lately comes last.
    kept: Vec<Arc<World>>,
}

impl Worlds {
    fn keep(&mut self, part: &Arc<World>) {
        let is_current = |whole: &Arc<World>| Arc::ptr_eq(&whole.service.plan, &part.service.plan);
        if self.whole.as_ref().is_some_and(is_current) {
            self.kept.retain(|world| !Arc::ptr_eq(world, part));
            if self.kept.len() == WORLDS {
                self.kept.remove(0);
            }
            self.kept.push(Arc::clone(part));
        }
    }
}

/// What worlds are made with.
#[derive(Clone)]
struct Means {
    database: String,
    threads: usize,
    memory: Arc<RuntimeEnv>,
    partials: Arc<Partials>,
}

/// A question that has been understood.
#[derive(Clone)]
pub struct Prepared {
    pub(crate) what: What,
    /// What PostgreSQL would call the columns.
    names: Option<Vec<String>>,
    /// Types that parameters are cast to, by place.
    casts: BTreeMap<usize, Type>,
    world: Arc<World>,
}

#[derive(Clone)]
pub(crate) enum What {
    Plan(Sealed<LogicalPlan>),
    Catalogue(Arc<Question>),
}

/// A table as people are told of it.
#[derive(Clone, Debug)]
pub struct Described {
    pub schema: &'static str,
    pub name: String,
    pub comment: String,
    /// Name, type as PostgreSQL calls it, and what it is.
    pub columns: Vec<(String, String, String)>,
}

/// A question that has been read.
enum Understood {
    Plan(Prepared),
    Catalogue { statement: Sealed<Statement>, names: Option<Vec<String>>, casts: BTreeMap<usize, Type>, world: Arc<World> },
}

/// Rows, as they come; dropped, the statement ends.
pub struct Answer {
    pub schema: SchemaRef,
    batches: mpsc::Receiver<RecordBatch>,
    /// How the statement ended; none: that is known already.
    outcome: Option<oneshot::Receiver<Result<()>>>,
    /// Why there are no more rows, for whoever asks again.
    failed: Option<SqlError>,
    /// Time that the engine may still take.
    left: Duration,
    task: Option<Task<()>>,
}

/// Work on the engine's threads that ends when nobody waits for it.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Tells work that cannot be taken from its thread that nobody waits for it.
#[derive(Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    pub fn is_told(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

struct StopOnDrop(Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

fn late() -> SqlError {
    SqlError::new(CANCELED, "canceling statement due to statement timeout")
        .hint("ask for a shorter range of time, or give statements more time")
}

fn ended_badly(e: impl std::fmt::Display) -> SqlError {
    SqlError::new(INTERNAL, format!("the statement ended badly: {e}"))
}

/// The question that a text is.
fn only(mut commands: Vec<Command>) -> Result<Sealed<Statement>> {
    match (commands.pop(), commands.is_empty()) {
        (Some(Command::Ask(statement)), true) => Ok(statement),
        (None, _) => Err(SqlError::new(SYNTAX, "there is no statement")),
        (_, false) => Err(SqlError::new(UNSUPPORTED, "one statement at a time")),
        (Some(_), true) => Err(SqlError::new(UNSUPPORTED, "this says something to a session; only questions are answered here")),
    }
}

impl Answer {
    /// One batch that is known already.
    pub(crate) fn fixed(batch: RecordBatch) -> Answer {
        let (tx, batches) = mpsc::channel(1);
        let schema = batch.schema();
        // The channel is new and has room.
        let _ = tx.try_send(batch);
        Answer { schema, batches, outcome: None, failed: None, left: Duration::MAX, task: None }
    }

    /// The next rows; none: that was all.
    ///
    /// # Errors
    /// As the statement has it; its time is up. What its reader takes does not count, but for rows that are left lying.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        let next = self.awaited().await;
        self.failed = next.as_ref().err().cloned();
        next
    }

    async fn awaited(&mut self) -> Result<Option<RecordBatch>> {
        let begun = Instant::now();
        let next = timeout(self.left, self.batches.recv()).await;
        self.left = self.left.saturating_sub(begun.elapsed());
        match next {
            Ok(Some(batch)) => Ok(Some(batch)),
            Ok(None) => match self.outcome.take() {
                // A statement whose end is not told has not ended well, however many rows there were.
                Some(outcome) => outcome.await.unwrap_or_else(|_| Err(ended_badly("it was given up"))).map(|()| None),
                None => Ok(None),
            },
            Err(_) => {
                self.batches.close();
                (self.outcome, self.task) = (None, None);
                Err(late())
            }
        }
    }
}

/// Hands on rows as long as somebody reads them.
async fn forward(mut stream: SendableRecordBatchStream, rows: mpsc::Sender<RecordBatch>, mut left: Duration) -> Result<()> {
    loop {
        let begun = Instant::now();
        let next = tokio::select! {
            () = rows.closed() => return Ok(()),
            next = timeout(left, stream.next()) => next.map_err(|_| late())?,
        };
        left = left.saturating_sub(begun.elapsed());
        let Some(batch) = next.transpose()? else { return Ok(()) };
        if left.is_zero() {
            return Err(late());
        }
        match timeout(UNREAD, rows.send(batch)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ok(()),
            Err(_) => {
                let message = format!("nobody read the rows of the statement for {} seconds", UNREAD.as_secs());
                return Err(SqlError::new(CANCELED, message).hint("fetch sooner, or ask again"));
            }
        }
    }
}

impl Engine {
    /// # Errors
    /// When no threads can be made.
    pub fn new(service: Arc<Service>, limits: Limits) -> anyhow::Result<Engine> {
        let pool: Arc<dyn MemoryPool> = Arc::new(TrackConsumersPool::new(FairSpillPool::new(limits.memory), 3.try_into()?));
        let spill = service.data.dir.join(SPILL);
        // Of a process that did not end by itself.
        match std::fs::remove_dir_all(&spill) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e).with_context(|| format!("cannot remove {}", spill.display())),
            _ => {}
        }
        let disk =
            DiskManagerBuilder::default().with_mode(DiskManagerMode::Directories(vec![spill])).with_max_temp_directory_size(limits.disk);
        let memory = RuntimeEnvBuilder::new().with_memory_pool(pool).with_disk_manager_builder(disk).build_arc()?;
        let threads = tokio::runtime::Builder::new_multi_thread()
            // One more, for while a function does not yield.
            .worker_threads(limits.threads.max(1) + 1)
            .thread_stack_size(STACK)
            .max_blocking_threads(SCANS)
            .thread_name("sql")
            .on_thread_start(give_way)
            .enable_all()
            .build()?;
        let (remembered, partials) = (Remembered::default(), Arc::new(Partials::new(limits.partials)));
        let (statements, catalogue) = (Arc::new(Semaphore::new(STATEMENTS)), Arc::new(Semaphore::new(CATALOGUE)));
        let (threads, worlds, more) = (Some(threads), Mutex::default(), Vec::new());
        let service = Sealed::new(service);
        Ok(Engine { service, limits, memory, remembered, more, partials, statements, catalogue, threads, worlds })
    }

    /// Has these tables as well, beside those of the project.
    pub fn with(mut self, tables: Vec<Placed>) -> Engine {
        self.more = tables;
        self
    }

    /// From now on writes down, little by little, what makes answers fast, for a server that is asked again and again.
    ///
    /// # Errors
    /// When the engine has ended.
    pub fn keep(self: &Arc<Self>) -> Result<()> {
        let engine = Arc::downgrade(self);
        self.threads()?.spawn(async move {
            while let Some(engine) = engine.upgrade() {
                let begun = Instant::now();
                let kept = tokio::task::spawn_blocking(move || engine.keep_some()).await;
                match kept {
                    // A quarter of one core.
                    Ok(Ok(true)) => tokio::time::sleep(3 * begun.elapsed()).await,
                    Ok(Ok(false)) => tokio::time::sleep(IDLE).await,
                    Ok(Err(e)) => {
                        tracing::warn!(error = %format!("{e:#}"), "columns are not written down");
                        tokio::time::sleep(30 * IDLE).await;
                    }
                    Err(_) => return,
                }
            }
        });
        Ok(())
    }

    /// How many worlds of those who may not see everything there are.
    pub fn partial_worlds(&self) -> usize {
        let worlds = self.worlds();
        worlds.parts.values().filter(|part| part.try_lock().is_ok_and(|world| world.strong_count() > 0)).count()
    }

    /// How many states of pieces of the logs are kept for questions that come again.
    pub fn kept_states(&self) -> usize {
        self.partials.len()
    }

    fn keep_some(&self) -> anyhow::Result<bool> {
        let world = self.whole()?;
        for placed in &world.placed {
            if placed.table.keep()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The name of the database: the project's.
    pub fn database(&self) -> &str {
        &self.service.plan.project
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What there is, under the definitions in force, for whoever has these rights. There is no other way from who asks to what is asked.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn world(&self, rights: &Rights) -> Result<Arc<World>> {
        let whole = self.whole()?;
        let Rights::Granted(grants) = rights else { return Ok(whole) };
        let part = {
            let mut worlds = self.worlds();
            // What nobody has or waits for any more.
            worlds.parts.retain(|_, part| Arc::strong_count(part) > 1 || part.try_lock().is_ok_and(|world| world.strong_count() > 0));
            Arc::clone(worlds.parts.entry(rights.clone()).or_default())
        };
        let mut made = part.lock().await;
        if let Some(world) = made.upgrade().filter(|world| Arc::ptr_eq(&world.service.plan, &whole.service.plan)) {
            self.worlds().keep(&world);
            return Ok(world);
        }
        let (grants, means) = (Arc::clone(grants), self.means());
        let world = Arc::new(self.apart(self.until(), async move { World::part(&whole, &grants, &means) }).await?);
        *made = Arc::downgrade(&world);
        self.worlds().keep(&world);
        Ok(world)
    }

    /// Everything.
    fn whole(&self) -> Result<Arc<World>> {
        let service = self.service.current();
        let mut worlds = self.worlds();
        // The same hash may have other comments, and whoever asks is known by the plan itself.
        if let Some(whole) = worlds.whole.as_ref().filter(|world| Arc::ptr_eq(&world.service.plan, &service.plan)) {
            return Ok(Arc::clone(whole));
        }
        let mut placed = tables::all(&service, &self.remembered);
        placed.extend(self.more.iter().cloned());
        let whole = Arc::new(World::of(&service, &self.means(), Rights::Everything, placed, tables::functions(&service, None))?);
        *worlds = Worlds { whole: Some(Arc::clone(&whole)), ..Worlds::default() };
        Ok(whole)
    }

    fn means(&self) -> Means {
        let (memory, partials) = (Arc::clone(&self.memory), Arc::clone(&self.partials));
        Means { database: self.database().to_owned(), threads: self.limits.threads.max(1), memory, partials }
    }

    fn worlds(&self) -> MutexGuard<'_, Worlds> {
        self.worlds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of the tables under the definitions in force that whoever has these rights may see.
    ///
    /// # Errors
    /// As [`Engine::world`].
    pub async fn tables(&self, rights: &Rights) -> Result<Vec<Described>> {
        let comment = |words: &HashMap<String, String>| words.get(COMMENT).cloned().unwrap_or_default();
        let world = self.world(rights).await?;
        let described = world.placed.iter().map(|placed| {
            let schema = placed.table.schema();
            let column = |field: &FieldRef| (field.name().clone(), pg_type(field.data_type()).name().to_owned(), comment(field.metadata()));
            let columns = schema.fields().iter().map(column).collect();
            Described { schema: placed.schema, comment: comment(schema.metadata()), name: placed.name.clone(), columns }
        });
        Ok(described.collect())
    }

    /// Holds grants against the tables under the definitions in force.
    ///
    /// # Errors
    /// With what is wrong with the first that cannot be given.
    pub fn check_grants(&self, grants: &[String]) -> Result<()> {
        let world = self.whole()?;
        let mut refused = None;
        rights::shown(&world.placed, grants, &world.state, &mut |text, e| {
            refused.get_or_insert_with(|| SqlError { message: format!("the grant `{text}`: {}", e.message), ..e });
        });
        refused.map_or(Ok(()), Err)
    }

    /// Understands a text that is one question.
    ///
    /// # Errors
    /// When it makes no sense, would write, or is none or several.
    pub async fn ask(&self, sql: &str, session: &Session) -> Result<Prepared> {
        self.prepare(only(self.parse(sql.to_owned()).await?)?, session, &[]).await
    }

    /// Cuts a text into statements.
    ///
    /// # Errors
    /// When it makes no sense.
    pub(crate) async fn parse(&self, sql: String) -> Result<Vec<Command>> {
        self.apart(Instant::now() + self.limits.time, async move { command::parse(&sql) }).await
    }

    /// A text that is one question, in which `?` may mark parameters.
    ///
    /// # Errors
    /// When it makes no sense, would write, or is none or several.
    pub(crate) async fn question(&self, sql: String) -> Result<Sealed<Statement>> {
        let commands = self.apart(Instant::now() + self.limits.time, async move { command::parse_marked(&sql) }).await?;
        only(commands)
    }

    /// Understands a question. `declared`: the types of parameters, by place, as far as its client says.
    ///
    /// # Errors
    /// When it makes no sense, or would write.
    pub(crate) async fn prepare(&self, statement: Sealed<Statement>, session: &Session, declared: &[Option<Type>]) -> Result<Prepared> {
        let until = Instant::now() + self.limits.time;
        let world = timeout_at(until, self.world(&session.rights)).await.map_err(|_| late())??;
        let (session, declared) = (session.clone(), declared.to_vec());
        let understood = self.apart(until, async move {
            let mut statement = Statement::clone(&statement);
            let names = session::column_names(&statement);
            session::fill(&mut statement, &session);
            if Catalogue::is_asked(&mut statement) {
                let casts = session::casts(&mut statement);
                return Ok(Understood::Catalogue { statement: Sealed::new(statement), names, casts, world });
            }
            session::declare(&mut statement, &declared);
            let casts = session::casts(&mut statement);
            session::place(&mut statement, |name| world.tables.get(name).copied());
            let plan = world.state.statement_to_plan(Parsed::Statement(Box::new(statement))).await?;
            let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
            options.verify_plan(&plan).map_err(|e| SqlError::new(READ_ONLY, e.strip_backtrace()))?;
            if world.rights != Rights::Everything && counts_rows(&plan)? {
                let message = "EXPLAIN ANALYZE is not for keys with grants: how long its parts take tells of rows that are not granted";
                return Err(SqlError::new(NOT_ALLOWED, message).hint("EXPLAIN shows the plan"));
            }
            if plan.schema().fields().len() > COLUMNS {
                return Err(SqlError::new(TOO_MANY_COLUMNS, format!("an answer has at most {COLUMNS} columns")));
            }
            Ok(Understood::Plan(Prepared { what: What::Plan(Sealed::new(plan)), names, casts, world }))
        });
        match understood.await? {
            Understood::Plan(prepared) => Ok(prepared),
            Understood::Catalogue { statement, names, casts, world } => {
                let of = Arc::clone(&world);
                let question =
                    self.about_catalogue(self.limits.time, move |stop| of.catalogue.question(Statement::clone(&statement), stop)).await?;
                Ok(Prepared { what: What::Catalogue(Arc::new(question)), names, casts, world })
            }
        }
    }

    /// Understands a question with what its parameters are: what to run, what is still to be given to it then, and how many bytes the rest takes in it.
    ///
    /// # Errors
    /// When it makes no sense, or they do not fit.
    pub(crate) async fn bind(
        &self,
        statement: Sealed<Statement>,
        session: &Session,
        declared: &[Option<Type>],
        parameters: Vec<ScalarValue>,
    ) -> Result<(Prepared, Vec<ScalarValue>, usize)> {
        let mut prepared = self.prepare(statement, session, declared).await?;
        let What::Plan(plan) = prepared.what else { return Ok((prepared, parameters, 0)) };
        let given = self.apart(self.until(), async move {
            let (plan, bytes) = given(LogicalPlan::clone(&plan), parameters)?;
            Ok((Sealed::new(plan), bytes))
        });
        let (plan, bytes) = given.await?;
        prepared.what = What::Plan(plan);
        Ok((prepared, Vec::new(), bytes))
    }

    /// Runs a question for whoever has the rights of a session. `time`: how long it may take, where that is less than the engine's limit.
    ///
    /// # Errors
    /// When it cannot be begun; when it was understood for other rights than these.
    pub async fn run(
        &self,
        prepared: &Prepared,
        session: &Session,
        parameters: Vec<ScalarValue>,
        time: Option<Duration>,
    ) -> Result<Answer> {
        if !self.still_holds(prepared, &session.rights) {
            return Err(outdated());
        }
        let time = time.map_or(self.limits.time, |time| time.min(self.limits.time));
        match &prepared.what {
            What::Plan(plan) => {
                let until = Instant::now() + time;
                let places = Arc::clone(&self.statements).acquire_owned();
                let Ok(Ok(place)) = timeout_at(until, places).await else {
                    let message = format!("there are {STATEMENTS} statements whose rows are not read to the end, which is the most");
                    return Err(SqlError::new("53000", message).hint("close cursors, and ask again"));
                };
                let (plan, world) = (plan.clone(), Arc::clone(&prepared.world));
                let stream = self.apart(until, async move {
                    let (plan, _) = given(LogicalPlan::clone(&plan), parameters)?;
                    let mut state = SessionState::clone(&world.state);
                    // What `now()` says.
                    state.mark_start_execution();
                    let physical = state.create_physical_plan(&plan).await?;
                    execute_stream(physical, state.task_ctx()).map_err(SqlError::from)
                });
                let stream = stream.await?;
                let (schema, left) = (stream.schema(), until.saturating_duration_since(Instant::now()));
                let (tx, batches) = mpsc::channel(2);
                let (ended, outcome) = oneshot::channel();
                let task = self.spawn(async move {
                    let _place = place;
                    // Nobody may wait for it any more.
                    let _ = ended.send(forward(stream, tx, left).await);
                })?;
                Ok(Answer { schema, batches, outcome: Some(outcome), failed: None, left, task: Some(task) })
            }
            What::Catalogue(question) => {
                let (question, world) = (Arc::clone(question), Arc::clone(&prepared.world));
                let rows = self.about_catalogue(time, move |stop| world.catalogue.rows(&question, &parameters, stop));
                Ok(Answer::fixed(rows.await?))
            }
        }
    }

    /// Whether a question was understood for whoever has these rights, and what they may see means the same now.
    pub(crate) fn still_holds(&self, prepared: &Prepared, rights: &Rights) -> bool {
        let world = &prepared.world;
        prepared.is_for(rights) && (*rights == Rights::Everything || Arc::ptr_eq(&world.service.plan, &self.service.current().plan))
    }

    /// Does on the engine's own threads what may take long without a pause.
    pub(crate) fn apart<T: Send + 'static>(
        &self,
        until: Instant,
        task: impl Future<Output = Result<T>> + Send + 'static,
    ) -> BoxFuture<'static, Result<T>> {
        let task = self.spawn(task);
        Box::pin(async move {
            match timeout_at(until, &mut task?.0).await {
                Ok(Ok(done)) => done,
                Ok(Err(e)) => Err(ended_badly(e)),
                Err(_) => Err(late()),
            }
        })
    }

    /// Asks the catalogue, on a thread that waits for nothing else; the question ends when nobody waits for it.
    async fn about_catalogue<T: Send + 'static>(&self, time: Duration, ask: impl FnOnce(&Stop) -> Result<T> + Send + 'static) -> Result<T> {
        let until = Instant::now() + time.min(self.limits.time / CATALOGUE_PART);
        let place = timeout_at(until, Arc::clone(&self.catalogue).acquire_owned()).await.map_err(|_| late())?.map_err(ended_badly)?;
        let stop = Stop::default();
        let _told = StopOnDrop(stop.clone());
        let asked = self.threads()?.spawn_blocking(move || {
            let _place = place;
            ask(&stop)
        });
        timeout_at(until, asked).await.map_err(|_| late())?.map_err(ended_badly)?
    }

    fn threads(&self) -> Result<&Runtime> {
        self.threads.as_ref().ok_or_else(|| SqlError::new(INTERNAL, "the engine has ended"))
    }

    /// The engine's limit on time, from now on.
    pub(crate) fn until(&self) -> Instant {
        Instant::now() + self.limits.time
    }

    /// Has a stream go on on the engine's own threads, a step ahead of whoever reads it, until nobody does.
    pub(crate) fn stream_apart<T: Send + 'static>(&self, stream: impl Stream<Item = T> + Send + 'static) -> Result<BoxStream<'static, T>> {
        let (tx, rx) = mpsc::channel(1);
        let task = self.spawn(async move {
            let mut stream = std::pin::pin!(stream);
            loop {
                let next = tokio::select! {
                    next = stream.next() => next,
                    () = tx.closed() => return,
                };
                let Some(item) = next else { return };
                if tx.send(item).await.is_err() {
                    return;
                }
            }
        })?;
        // The task ends with what is read of it.
        Ok(stream::unfold((rx, task), |(mut rx, task)| async move { rx.recv().await.map(|item| (item, (rx, task))) }).boxed())
    }

    fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> Result<Task<T>> {
        Ok(Task(self.threads()?.spawn(task)))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // A runtime may not wait for its threads where others run.
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

/// A plan with what its parameters are, and the bytes that they take in it.
fn given(plan: LogicalPlan, parameters: Vec<ScalarValue>) -> Result<(LogicalPlan, usize)> {
    if parameters.is_empty() {
        return Ok((plan, 0));
    }
    // Each place where one stands gets its own.
    let mut bytes = 0_usize;
    plan.apply_with_subqueries(|part| {
        part.apply_expressions(|expr| {
            expr.apply(|expr| {
                if let Expr::Placeholder(placeholder) = expr {
                    let number: Option<usize> = placeholder.id.strip_prefix('$').and_then(|id| id.parse().ok());
                    let value = number.and_then(|number| parameters.get(number.checked_sub(1)?));
                    bytes = bytes.saturating_add(value.map_or(0, ScalarValue::size));
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    if bytes > PARAMETERS {
        let message = format!("parameters have at most {PARAMETERS} bytes, as often as each is named, and these have {bytes}");
        return Err(SqlError::new(TOO_COMPLEX, message).hint("name a long one once"));
    }
    Ok((plan.with_param_values(ParamValues::from(parameters))?, bytes))
}

/// Whether a plan tells how many rows went where, and how long that took.
fn counts_rows(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|part| {
        found |= matches!(part, LogicalPlan::Analyze(_));
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// A statement that was understood for other rights. Drivers know the words, and prepare it again.
pub(crate) fn outdated() -> SqlError {
    SqlError::new(UNSUPPORTED, "cached plan must not change result type")
        .hint("what the key may see has changed: prepare the statement again")
}

impl Prepared {
    /// Whether it was understood for whoever has these rights.
    pub(crate) fn is_for(&self, rights: &Rights) -> bool {
        self.world.rights == *rights
    }

    /// Whether whoever was told of the one may go on with the other.
    ///
    /// # Errors
    /// As [`Prepared::parameters`].
    pub(crate) fn is_like(&self, before: &Prepared) -> Result<bool> {
        Ok(self.names() == before.names() && self.types() == before.types() && self.parameters()? == before.parameters()?)
    }

    /// What clients are told that the columns are.
    pub fn types(&self) -> Vec<Type> {
        match &self.what {
            What::Plan(plan) => plan.schema().fields().iter().map(|field| pg_type(field.data_type())).collect(),
            What::Catalogue(question) => question.columns().iter().map(|column| column.data_type.clone()).collect(),
        }
    }

    /// About how many bytes it takes.
    pub(crate) fn size(&self) -> usize {
        let What::Plan(plan) = &self.what else { return PART };
        let mut parts = 0_usize;
        let counted = plan.apply_with_subqueries(|_| {
            parts += 1;
            Ok(TreeNodeRecursion::Continue)
        });
        counted.map_or(usize::MAX, |_| parts.saturating_mul(PART))
    }

    /// What the parameters are, as far as the question tells.
    pub fn parameters(&self) -> Result<Vec<Type>> {
        match &self.what {
            What::Plan(plan) => {
                let found = plan.get_parameter_types()?;
                let place = |name: &String| name.strip_prefix('$').and_then(|place| place.parse::<usize>().ok()).unwrap_or(0);
                let count = found.keys().map(place).chain(self.casts.keys().copied()).max().unwrap_or(0);
                let told = |place: usize| found.get(&format!("${place}")).and_then(Option::as_ref).map(pg_type);
                let of = |place: usize| self.casts.get(&place).cloned().or_else(|| told(place)).unwrap_or(Type::TEXT);
                Ok((1..=count).map(of).collect())
            }
            What::Catalogue(question) => Ok(question.parameters.clone()),
        }
    }

    /// What its rows are as tables of Arrow, under the names that clients are told.
    pub(crate) fn schema(&self) -> SchemaRef {
        let own = match &self.what {
            What::Plan(plan) => Arc::clone(plan.schema().inner()),
            What::Catalogue(question) => question.schema(),
        };
        let fields: Vec<_> = own.fields().iter().zip(self.names()).map(|(field, name)| field.as_ref().clone().with_name(name)).collect();
        Arc::new(Schema::new(fields))
    }

    /// Names of the columns.
    pub fn names(&self) -> Vec<String> {
        let own: Vec<String> = match &self.what {
            What::Plan(plan) => plan.schema().fields().iter().map(|field| field.name().clone()).collect(),
            What::Catalogue(question) => question.columns().iter().map(|column| column.name.clone()).collect(),
        };
        match &self.names {
            Some(names) if names.len() == own.len() => names.clone(),
            _ => own,
        }
    }
}

impl World {
    /// What grants show of the whole one.
    fn part(whole: &World, grants: &Arc<[String]>, means: &Means) -> Result<World> {
        let shown = rights::shown(&whole.placed, grants, &whole.state, &mut |grant, e| {
            if whole.told.lock().unwrap_or_else(PoisonError::into_inner).insert(grant.to_owned()) {
                tracing::warn!(grant, reason = e.message, "a grant of a key cannot be given: its table is refused");
            }
        });
        let views = shown.iter().filter(|shown| shown.placed.schema == "features");
        let views = views.map(|shown| (shown.placed.name.clone(), shown.veil.clone())).collect();
        let functions = tables::functions(&whole.service, Some(views));
        let placed = shown.into_iter().map(|shown| shown.placed).collect();
        World::of(&whole.service, means, Rights::Granted(Arc::clone(grants)), placed, functions)
    }

    fn of(
        service: &Arc<Service>,
        means: &Means,
        rights: Rights,
        placed: Vec<Placed>,
        functions: Vec<(&'static str, Arc<dyn TableFunctionImpl>)>,
    ) -> Result<World> {
        let database = means.database.as_str();
        let catalog = Arc::new(MemoryCatalogProvider::new());
        let mut names = BTreeMap::new();
        for (_, schema) in SCHEMAS {
            let tables = MemorySchemaProvider::new();
            for placed in placed.iter().filter(|placed| placed.schema == schema) {
                tables.register_table(placed.name.clone(), Arc::new(Provider(Arc::clone(&placed.table))))?;
                if SEARCH_PATH.contains(&schema) {
                    names.entry(placed.name.clone()).or_insert(schema);
                }
            }
            catalog.register_schema(schema, Arc::new(tables))?;
        }
        let mut config = SessionConfig::new()
            .with_default_catalog_and_schema(database, SEARCH_PATH[0])
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(false)
            .with_target_partitions(means.threads);
        // Moments are in UTC and say so.
        config.options_mut().execution.time_zone = Some("UTC".into());
        let mut state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(Arc::clone(&means.memory))
            .with_default_features()
            .with_physical_optimizer_rule(Arc::new(ByPieces(Arc::clone(&means.partials))))
            .build();
        for (name, function) in functions {
            state.register_udtf(name, function);
        }
        functions::bound(&mut state)?;
        utc::without_zones(&mut state)?;
        state.catalog_list().register_catalog(database.to_owned(), catalog);
        let catalogue = Catalogue::new(database, &placed)?;
        let state = Sealed::new(state);
        let service = Sealed::new(Arc::clone(service));
        Ok(World { service, rights, state, tables: names, placed, told: Mutex::default(), catalogue })
    }

    /// Every table: its schema, its name, and what its rows are.
    pub fn tables(&self) -> impl Iterator<Item = (&'static str, &str, &SchemaRef)> {
        self.placed.iter().map(|placed| (placed.schema, placed.name.as_str(), placed.table.schema()))
    }
}
