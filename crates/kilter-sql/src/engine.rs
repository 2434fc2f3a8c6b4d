//! The engine: statements planned against the tables of the definitions in force, and run within limits.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use datafusion::arrow::datatypes::FieldRef;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::SQLOptions;
use datafusion::sql::parser::Statement as Parsed;
use datafusion::sql::sqlparser::ast::Statement;
use kilter_runtime::Service;
use kilter_store::threads;
use pgwire::api::Type;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::answer::Answer;
use crate::catalogue::Catalogue;
use crate::command::{self, Command};
use crate::encode::pg_type;
use crate::error::{NOT_ALLOWED, READ_ONLY, Result, SYNTAX, SqlError, TOO_COMPLEX, TOO_MANY_COLUMNS, UNSUPPORTED};
use crate::partials::Partials;
use crate::prepared::{Prepared, What};
use crate::rights::{self, Rights};
use crate::sealed::Sealed;
use crate::session::{self, Session};
use crate::tables::{COMMENT, Placed};
use crate::work::{Stop, Threads, ended_badly, late};
use crate::worlds::{Means, World, Worlds};

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
/// Bytes of a statement's parameters.
const PARAMETERS: usize = 16 << 20;
/// Statements at a time whose rows are not all read.
const STATEMENTS: usize = 128;
/// Questions about the catalogue at a time.
const CATALOGUE: usize = 4;
/// The part of a statement's time that one of these may take.
const CATALOGUE_PART: u32 = 6;
/// Of the data folder: what does not fit into memory. Nothing in it outlives the process.
const SPILL: &str = "sql-spill";
/// Between two looks at whether there is something to write down.
const IDLE: Duration = Duration::from_secs(2);

/// Answers questions about a project.
pub struct Engine {
    service: Sealed<Arc<Service>>,
    limits: Limits,
    partials: Arc<Partials>,
    statements: Arc<Semaphore>,
    catalogue: Arc<Semaphore>,
    threads: Threads,
    worlds: Worlds,
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

/// The question that a text is.
fn only(mut commands: Vec<Command>) -> Result<Sealed<Statement>> {
    match (commands.pop(), commands.is_empty()) {
        (Some(Command::Ask(statement)), true) => Ok(statement),
        (None, _) => Err(SqlError::new(SYNTAX, "there is no statement")),
        (_, false) => Err(SqlError::new(UNSUPPORTED, "one statement at a time")),
        (Some(_), true) => Err(SqlError::new(UNSUPPORTED, "this says something to a session; only questions are answered here")),
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
        let (computing, partials) = (limits.threads.max(1), Arc::new(Partials::new(limits.partials)));
        let database = service.plan.project.clone();
        let worlds = Worlds::new(Means { database, threads: computing, memory, partials: Arc::clone(&partials) });
        let (statements, catalogue) = (Arc::new(Semaphore::new(STATEMENTS)), Arc::new(Semaphore::new(CATALOGUE)));
        let (service, threads) = (Sealed::new(service), Threads::new(computing)?);
        Ok(Engine { service, limits, partials, statements, catalogue, threads, worlds })
    }

    /// Has these tables as well, beside those of the project.
    pub fn with(mut self, tables: Vec<Placed>) -> Engine {
        self.worlds = self.worlds.with(tables);
        self
    }

    /// From now on writes down, little by little, what makes answers fast, for a server that is asked again and again.
    pub fn keep(self: &Arc<Self>) {
        let engine = Arc::downgrade(self);
        self.threads.leave(async move {
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
    }

    /// How many worlds of those who may not see everything there are.
    pub fn partial_worlds(&self) -> usize {
        self.worlds.parts()
    }

    /// How many states of pieces of the logs are kept for questions that come again.
    pub fn kept_states(&self) -> usize {
        self.partials.len()
    }

    fn keep_some(&self) -> anyhow::Result<bool> {
        let _computing = threads::computing();
        let world = self.worlds.whole(&self.service)?;
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
        self.worlds.of(&self.service, rights, &self.threads, self.until()).await
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
        let world = self.worlds.whole(&self.service)?;
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
        self.threads.run(self.until(), async move { command::parse(&sql) }).await
    }

    /// A text that is one question, in which `?` may mark parameters.
    ///
    /// # Errors
    /// When it makes no sense, would write, or is none or several.
    pub(crate) async fn question(&self, sql: String) -> Result<Sealed<Statement>> {
        let commands = self.threads.run(self.until(), async move { command::parse_marked(&sql) }).await?;
        only(commands)
    }

    /// Understands a question. `declared`: the types of parameters, by place, as far as its client says.
    ///
    /// # Errors
    /// When it makes no sense, or would write.
    pub(crate) async fn prepare(&self, statement: Sealed<Statement>, session: &Session, declared: &[Option<Type>]) -> Result<Prepared> {
        let until = self.until();
        let world = timeout_at(until, self.world(&session.rights)).await.map_err(|_| late())??;
        let (session, declared) = (session.clone(), declared.to_vec());
        let understood = self.threads.run(until, async move {
            let mut statement = Statement::clone(&statement);
            let names = session::column_names(&statement);
            session::fill(&mut statement, &session);
            if Catalogue::is_asked(&mut statement) {
                let casts = session::casts(&mut statement);
                return Ok(Understood::Catalogue { statement: Sealed::new(statement), names, casts, world });
            }
            session::declare(&mut statement, &declared);
            let casts = session::casts(&mut statement);
            session::place(&mut statement, |name| world.schemas.get(name).copied());
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
        let given = self.threads.run(self.until(), async move {
            let (plan, bytes) = with_parameters(LogicalPlan::clone(&plan), parameters)?;
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
                let stream = self.threads.run(until, async move {
                    let (plan, _) = with_parameters(LogicalPlan::clone(&plan), parameters)?;
                    let mut state = SessionState::clone(&world.state);
                    // What `now()` says.
                    state.mark_start_execution();
                    let physical = state.create_physical_plan(&plan).await?;
                    execute_stream(physical, state.task_ctx()).map_err(SqlError::from)
                });
                let stream = stream.await?;
                Ok(Answer::of(stream, &self.threads, until.saturating_duration_since(Instant::now()), place))
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

    /// Asks the catalogue, on a thread that waits for nothing else; the question ends when nobody waits for it.
    async fn about_catalogue<T: Send + 'static>(&self, time: Duration, ask: impl FnOnce(&Stop) -> Result<T> + Send + 'static) -> Result<T> {
        let until = Instant::now() + time.min(self.limits.time / CATALOGUE_PART);
        let place = timeout_at(until, Arc::clone(&self.catalogue).acquire_owned()).await.map_err(|_| late())?.map_err(ended_badly)?;
        self.threads
            .block(until, move |stop| {
                let _place = place;
                ask(stop)
            })
            .await
    }

    /// The engine's limit on time, from now on.
    pub(crate) fn until(&self) -> Instant {
        Instant::now() + self.limits.time
    }

    pub(crate) fn threads(&self) -> &Threads {
        &self.threads
    }
}

/// A plan with what its parameters are, and the bytes that they take in it.
fn with_parameters(plan: LogicalPlan, parameters: Vec<ScalarValue>) -> Result<(LogicalPlan, usize)> {
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
