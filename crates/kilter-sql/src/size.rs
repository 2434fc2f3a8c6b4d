//! How large a statement becomes once every name in it stands for what it means.
//!
//! Both engines put the question of a WITH wherever it is named, and the expression of a column wherever a question around it uses the column. A text of
//! two kilobytes can so become 2^40 tables or additions, while it is planned and before any limit on running holds. What it would become is counted here first.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, GroupByWithModifier, ObjectName, ObjectNamePart, Query, Select, SelectItem, SetExpr, Statement, TableFactor, Visit,
    Visitor, WindowType,
};

use crate::error::{Result, SqlError, TOO_COMPLEX};
use crate::functions::is_bounded;
use crate::session::{folded, last, name_of};

/// Tables of a statement.
const TABLES: u64 = 500;
/// Names of columns in one expression.
const NAMES: u64 = 100_000;
/// Calls of functions that make much of little: each of them may make some megabytes.
const CALLS: u64 = 32;
/// What one GROUP BY may come to, as PostgreSQL has it.
const GROUPING_SETS: u64 = 4096;
/// Parts of expressions that are copied for each set of a grouping, and each use of a window.
const COPIES: u64 = 250_000;

/// Refuses a statement that grows beyond reason.
///
/// # Errors
/// With the count that it would have.
pub fn bounded(statement: &Statement) -> Result<()> {
    let mut scope = Scope::default();
    let mut inner = Inner::new(&mut scope);
    let sizes = match statement.visit(&mut inner) {
        ControlFlow::Continue(()) => inner.sizes,
        ControlFlow::Break(sizes) => sizes,
    };
    let refused = |message: String, hint: &str| Err(SqlError::new(TOO_COMPLEX, message).hint(hint));
    let hint = "what WITH defines counts wherever it is named";
    match () {
        () if sizes.tables > TABLES => refused(format!("a statement names at most {TABLES} tables"), hint),
        () if sizes.most() > NAMES => refused(format!("an expression names at most {NAMES} columns"), hint),
        () if sizes.calls > CALLS => refused(format!("a statement calls functions that make long texts at most {CALLS} times"), hint),
        () if sizes.sets > GROUPING_SETS => {
            refused(format!("GROUP BY has at most {GROUPING_SETS} grouping sets"), "CUBE has a set for every choice of what it names")
        }
        () if sizes.copies > COPIES => {
            refused("the windows or grouping sets of a statement repeat too many expressions".into(), "name fewer or shorter ones")
        }
        () => Ok(()),
    }
}

/// What a question comes to.
#[derive(Clone, Debug)]
struct Sizes {
    tables: u64,
    /// Names that the expression of each column has, where that is known.
    columns: HashMap<String, u64>,
    /// Names that the expressions of all others have at most.
    others: u64,
    calls: u64,
    /// Grouping sets of the GROUP BY that has most.
    sets: u64,
    copies: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes { tables: 0, columns: HashMap::new(), others: 1, calls: 0, sets: 0, copies: 0 }
    }
}

impl Sizes {
    fn most(&self) -> u64 {
        self.columns.values().copied().fold(self.others, u64::max)
    }

    fn of(&self, name: &str) -> u64 {
        self.columns.get(name).copied().unwrap_or(self.others)
    }

    fn is_too_large(&self) -> bool {
        self.tables > TABLES || self.most() > NAMES || self.calls > CALLS || self.sets > GROUPING_SETS || self.copies > COPIES
    }

    /// Both stand beside each other.
    fn add(&mut self, other: &Sizes) {
        self.count(other);
        for (name, size) in &mut self.columns {
            *size = (*size).max(other.of(name));
        }
        for (name, size) in &other.columns {
            let others = self.others;
            let own = self.columns.entry(name.clone()).or_insert(others);
            *own = (*own).max(*size);
        }
        self.others = self.others.max(other.others);
    }

    /// Adds all but columns.
    fn count(&mut self, other: &Sizes) {
        self.tables = self.tables.saturating_add(other.tables);
        self.calls = self.calls.saturating_add(other.calls);
        self.copies = self.copies.saturating_add(other.copies);
        self.sets = self.sets.max(other.sets);
    }

    /// Columns are called otherwise from here on.
    fn rename(&mut self) {
        self.raise(self.most());
        self.columns.clear();
    }

    /// Every column, whatever it is called, has at least this.
    fn raise(&mut self, size: u64) {
        self.columns.values_mut().for_each(|own| *own = (*own).max(size));
        self.others = self.others.max(size);
    }

    fn checked(self) -> ControlFlow<Sizes, Sizes> {
        if self.is_too_large() { ControlFlow::Break(self) } else { ControlFlow::Continue(self) }
    }
}

/// What WITH has defined so far, innermost last.
type Scope = Vec<(String, Sizes)>;

/// Counts what stands in a part of a statement; questions in it are counted as wholes.
struct Inner<'a> {
    scope: &'a mut Scope,
    sizes: Sizes,
    /// Whether columns were given other names.
    is_renamed: bool,
    /// Whether the next question may name columns of what stands before it.
    is_lateral: bool,
    depth: usize,
}

impl<'a> Inner<'a> {
    fn new(scope: &'a mut Scope) -> Inner<'a> {
        Inner { scope, sizes: Sizes::default(), is_renamed: false, is_lateral: false, depth: 0 }
    }

    fn checked(&self) -> ControlFlow<Sizes> {
        if self.sizes.is_too_large() { ControlFlow::Break(self.sizes.clone()) } else { ControlFlow::Continue(()) }
    }
}

impl Visitor for Inner<'_> {
    type Break = Sizes;

    fn pre_visit_query(&mut self, inner: &Query) -> ControlFlow<Sizes> {
        self.depth += 1;
        if self.depth > 1 {
            return ControlFlow::Continue(());
        }
        let mut sizes = query(inner, self.scope)?;
        if std::mem::take(&mut self.is_lateral) {
            sizes.raise(sizes.most().saturating_mul(self.sizes.most()));
        }
        self.sizes.add(&sizes);
        self.checked()
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<Sizes> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<Sizes> {
        if self.depth > 0 {
            return ControlFlow::Continue(());
        }
        self.sizes.tables += 1;
        if let [ObjectNamePart::Identifier(name)] = relation.0.as_slice() {
            let name = folded(name);
            if let Some((_, sizes)) = self.scope.iter().rev().find(|(known, _)| *known == name) {
                let sizes = sizes.clone();
                self.sizes.add(&sizes);
            }
        }
        self.checked()
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Sizes> {
        if self.depth == 0 {
            self.is_lateral = matches!(factor, TableFactor::Derived { lateral: true, .. });
            self.is_renamed |= match factor {
                TableFactor::Table { alias, .. }
                | TableFactor::Derived { alias, .. }
                | TableFactor::NestedJoin { alias, .. }
                | TableFactor::Function { alias, .. }
                | TableFactor::UNNEST { alias, .. } => alias.as_ref().is_some_and(|alias| !alias.columns.is_empty()),
                // All others are not answered.
                _ => true,
            };
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Sizes> {
        if self.depth == 0
            && let Expr::Function(function) = expr
            && is_bounded(&last(&function.name))
        {
            self.sizes.calls += 1;
        }
        self.checked()
    }
}

fn query(query: &Query, scope: &mut Scope) -> ControlFlow<Sizes, Sizes> {
    let known = scope.len();
    let mut whole = Sizes::default();
    for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
        let mut sizes = self::query(&cte.query, scope)?;
        if !cte.alias.columns.is_empty() {
            sizes.rename();
        }
        // It is put where it is named; by itself it is planned once.
        whole.tables += 1;
        scope.push((folded(&cte.alias.name), sizes));
    }
    let body = body(&query.body, scope)?;
    whole.add(&body);
    let mut rest = Inner::new(scope);
    query.order_by.visit(&mut rest)?;
    query.limit_clause.visit(&mut rest)?;
    let Inner { sizes: rest, .. } = rest;
    whole.count(&rest);
    scope.truncate(known);
    whole.checked()
}

fn body(body: &SetExpr, scope: &mut Scope) -> ControlFlow<Sizes, Sizes> {
    match body {
        SetExpr::Select(inner) => select(inner, scope),
        SetExpr::Query(inner) => query(inner, scope),
        SetExpr::SetOperation { left, right, .. } => {
            let (mut sizes, right) = (self::body(left, scope)?, self::body(right, scope)?);
            // The columns are called as those on the left, whatever they are on the right.
            sizes.raise(right.most());
            sizes.count(&right);
            sizes.checked()
        }
        other => {
            let mut inner = Inner::new(scope);
            other.visit(&mut inner)?;
            ControlFlow::Continue(inner.sizes)
        }
    }
}

fn named(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::UnnamedExpr(expr) => Some(name_of(expr)),
        SelectItem::ExprWithAlias { alias, .. } => Some(folded(alias)),
        _ => None,
    }
}

fn select(select: &Select, scope: &mut Scope) -> ControlFlow<Sizes, Sizes> {
    let mut inner = Inner::new(scope);
    select.visit(&mut inner)?;
    let Inner { sizes: mut from, is_renamed, .. } = inner;
    if is_renamed {
        from.rename();
    }
    let mut sizes = Sizes::default();
    sizes.count(&from);
    let sets = grouping_sets(&select.group_by);
    sizes.sets = sizes.sets.max(sets);
    if sets > 1 {
        sizes.copies = sizes.copies.saturating_add(sets.saturating_mul(parts(&select.group_by).0));
    }
    let window = select.named_window.iter().map(|window| parts(window).0).max().unwrap_or(0);
    if window > 0 {
        sizes.copies = sizes.copies.saturating_add(window.saturating_mul(parts(select).1));
    }
    for item in &select.projection {
        match item {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
                let size = size_of(expr, &from);
                if size > 1
                    && let Some(name) = named(item)
                {
                    let own = sizes.columns.entry(name).or_insert(size);
                    *own = (*own).max(size);
                }
            }
            _ => {
                for (name, size) in &from.columns {
                    let own = sizes.columns.entry(name.clone()).or_insert(*size);
                    *own = (*own).max(*size);
                }
                sizes.others = sizes.others.max(from.others);
            }
        }
    }
    sizes.checked()
}

/// How many sets a GROUP BY comes to.
fn grouping_sets(group_by: &GroupByExpr) -> u64 {
    fn choices(count: usize) -> u64 {
        u32::try_from(count).ok().and_then(|count| 2_u64.checked_pow(count)).unwrap_or(u64::MAX)
    }
    fn product<'a>(exprs: impl IntoIterator<Item = &'a Expr>) -> u64 {
        exprs.into_iter().map(of_expr).fold(1, u64::saturating_mul)
    }
    fn of_expr(expr: &Expr) -> u64 {
        match expr {
            Expr::Cube(sets) => choices(sets.len()),
            Expr::Rollup(sets) => sets.len() as u64 + 1,
            Expr::GroupingSets(sets) => sets.iter().map(product).fold(0, u64::saturating_add),
            Expr::Nested(inner) => of_expr(inner),
            Expr::Tuple(inner) => product(inner),
            _ => 1,
        }
    }
    let (exprs, modifiers) = match group_by {
        GroupByExpr::All(modifiers) => (&[][..], modifiers),
        GroupByExpr::Expressions(exprs, modifiers) => (exprs.as_slice(), modifiers),
    };
    let of_modifier = |modifier: &GroupByWithModifier| match modifier {
        GroupByWithModifier::Cube => choices(exprs.len()),
        GroupByWithModifier::Rollup => exprs.len() as u64 + 1,
        GroupByWithModifier::GroupingSets(expr) => of_expr(expr),
        GroupByWithModifier::Totals => 1,
    };
    modifiers.iter().map(of_modifier).fold(product(exprs), u64::saturating_mul)
}

/// Of how many parts expressions are, and how many of them use a window by its name.
fn parts(node: &impl Visit) -> (u64, u64) {
    struct Parts(u64, u64);
    impl Visitor for Parts {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            self.0 += 1;
            if let Expr::Function(function) = expr
                && let Some(WindowType::NamedWindow(_)) = function.over
            {
                self.1 += 1;
            }
            ControlFlow::Continue(())
        }
    }
    let mut parts = Parts(0, 0);
    let _ = node.visit(&mut parts);
    (parts.0, parts.1)
}

/// Names of columns in an expression, once each stands for its own.
fn size_of(expr: &Expr, from: &Sizes) -> u64 {
    struct Names<'a>(&'a Sizes, u64);
    impl Visitor for Names<'_> {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            let name = match expr {
                Expr::Identifier(name) => name,
                Expr::CompoundIdentifier(parts) => match parts.last() {
                    Some(name) => name,
                    None => return ControlFlow::Continue(()),
                },
                _ => return ControlFlow::Continue(()),
            };
            self.1 = self.1.saturating_add(self.0.of(&folded(name)));
            ControlFlow::Continue(())
        }
    }
    let mut names = Names(from, 0);
    let _ = expr.visit(&mut names);
    names.1
}

#[cfg(test)]
mod tests {
    use crate::command::parse;
    use crate::error::TOO_COMPLEX;

    fn chain(n: usize, next: impl Fn(usize) -> String) -> String {
        let rest: Vec<String> = (1..=n).map(next).collect();
        format!("WITH c0 AS (SELECT 1 AS x), {} SELECT x FROM c{n} WHERE x > 0", rest.join(", "))
    }

    #[test]
    fn what_doubles_with_every_name_is_refused() {
        let tables = |n| chain(n, |i| format!("c{i} AS (SELECT a.x FROM c{0} a, c{0} b)", i - 1));
        let columns = |n| chain(n, |i| format!("c{i} AS (SELECT x + x AS x FROM c{0})", i - 1));
        let nested = |n: usize| (0..n).fold("SELECT 1 AS x".to_owned(), |inner, i| format!("SELECT x + x AS x FROM ({inner}) AS t{i}"));
        let renamed = |n: usize| (0..n).fold("SELECT 1 AS x".to_owned(), |inner, i| format!("SELECT y + y FROM ({inner}) AS t{i}(y)"));
        let united = chain(40, |i| format!("c{i} AS (SELECT 1 AS x UNION ALL SELECT x + x FROM c{0})", i - 1));
        let starred = format!(
            "WITH d0 AS (SELECT 1 AS x), {} SELECT x FROM d40 WHERE x > 0",
            (1..=40).map(|i| format!("d{i} AS (SELECT * FROM d0 UNION ALL SELECT x + x FROM d{})", i - 1)).collect::<Vec<_>>().join(", ")
        );
        let valued = format!(
            "WITH d0 AS (VALUES (1.0)), {} SELECT column1 FROM d40 WHERE column1 > 0",
            (1..=40)
                .map(|i| format!("d{i} AS (VALUES (1.0) UNION ALL SELECT column1 + column1 FROM d{})", i - 1))
                .collect::<Vec<_>>()
                .join(", ")
        );
        let joined = chain(40, |i| format!("c{i} AS (SELECT y + y AS x FROM (c{} CROSS JOIN (SELECT 1 AS b) AS o) AS t(y, z))", i - 1));
        let lateral =
            chain(40, |i| format!("c{i} AS (SELECT y AS x FROM c{} AS p CROSS JOIN LATERAL (SELECT p.x + p.x AS y) AS t)", i - 1));
        let swapped = chain(40, |i| format!("c{i}(y, x) AS (SELECT 1 AS x, x + x AS y FROM c{})", i - 1));
        let more = [starred, valued, joined, lateral, swapped, format!("SELECT 1 ORDER BY ({})", columns(40))];
        let bads = [tables(40), columns(40), nested(20), renamed(20), united, format!("SELECT ({})", columns(40))];
        for bad in bads.into_iter().chain(more) {
            assert_eq!(parse(&bad).unwrap_err().code, TOO_COMPLEX, "{bad}");
        }
        for good in [tables(5), columns(10), nested(3)] {
            assert!(parse(&good).is_ok(), "{good}");
        }
    }

    #[test]
    fn what_grows_slowly_passes() {
        let steps = chain(40, |i| format!("c{i} AS (SELECT x + 1 AS x FROM c{0})", i - 1));
        assert!(parse(&steps).is_ok());
        let cases =
            chain(3, |i| format!("c{i} AS (SELECT CASE WHEN x < 1 THEN 1 WHEN x < 2 THEN 2 WHEN x < 3 THEN x END AS x FROM c{0})", i - 1));
        assert!(parse(&cases).is_ok());
    }

    #[test]
    fn grouping_sets_windows_and_calls_are_counted_before_they_are_made() {
        let list = |n: usize, of: &dyn Fn(usize) -> String| (0..n).map(of).collect::<Vec<_>>().join(", ");
        let plus = |i: usize| format!("score + {i}");
        let cube = |n| format!("SELECT count(*) FROM decisions GROUP BY CUBE ({})", list(n, &plus));
        let beside = |n| format!("SELECT count(*) FROM decisions GROUP BY outcome, CUBE ({})", list(n, &plus));
        let cubes = |n| format!("SELECT count(*) FROM decisions GROUP BY {}", list(n, &|i| format!("CUBE (score + {i}, score - {i})")));
        let wide = |n| format!("SELECT count(*) FROM decisions GROUP BY {}, CUBE (a, b, c, d, e, f, g, h, i, j)", list(n, &plus));
        let windows = |n| {
            let uses = list(n, &|i| format!("sum(a + {i}) OVER w"));
            format!("SELECT {uses} FROM t WINDOW w AS (ORDER BY {})", list(n, &|_| "a".into()))
        };
        let calls = |n| format!("SELECT {}", list(n, &|i| format!("repeat('x{i}', 9)")));
        let folded = "WITH a AS (SELECT repeat('x', 9) AS x, pg_catalog.lpad('x', 9) AS y) SELECT * FROM a, a b, a c, a d";
        for bad in [cube(13), cube(35), beside(13), cubes(7), wide(200), windows(1000), calls(33)] {
            assert_eq!(parse(&bad).unwrap_err().code, TOO_COMPLEX, "{bad}");
        }
        for good in [cube(10), beside(10), cubes(5), wide(2), windows(20), calls(32), folded.into()] {
            assert!(parse(&good).is_ok(), "{good}: {:?}", parse(&good).unwrap_err());
        }
        let often = format!("WITH a AS ({}) SELECT * FROM a, a b, a c", calls(11));
        assert_eq!(parse(&often).unwrap_err().code, TOO_COMPLEX, "{often}");
    }
}
