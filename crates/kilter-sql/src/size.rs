//! How large a statement becomes once every name in it stands for what it means.
//!
//! Both engines put the question of a WITH wherever it is named, and the expression of a column wherever a question around it uses the column. A text of
//! two kilobytes can so become 2^40 tables or additions, while it is planned and before any limit on running holds. What it would become is counted here first.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, ObjectName, ObjectNamePart, Query, Select, SelectItem, SetExpr, Statement, TableFactor, Visit, Visitor,
};

use crate::error::{Result, SqlError, TOO_COMPLEX};
use crate::session::{folded, name_of};

/// Tables of a statement.
const TABLES: u64 = 500;
/// Names of columns in one expression.
const NAMES: u64 = 100_000;

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
        () => Ok(()),
    }
}

/// What a question comes to.
#[derive(Clone, Debug, Default)]
struct Sizes {
    tables: u64,
    /// Names that the expression of each column has, where that is more than one.
    columns: HashMap<String, u64>,
}

impl Sizes {
    fn most(&self) -> u64 {
        self.columns.values().copied().max().unwrap_or(1)
    }

    fn is_too_large(&self) -> bool {
        self.tables > TABLES || self.most() > NAMES
    }

    /// Both stand beside each other.
    fn add(&mut self, other: &Sizes) {
        self.tables = self.tables.saturating_add(other.tables);
        for (name, size) in &other.columns {
            let own = self.columns.entry(name.clone()).or_insert(1);
            *own = (*own).max(*size);
        }
    }
}

/// What WITH has defined so far, innermost last.
type Scope = Vec<(String, Sizes)>;

/// Counts what stands in a part of a statement; questions in it are counted as wholes.
struct Inner<'a> {
    scope: &'a mut Scope,
    sizes: Sizes,
    /// Columns that were given another name.
    renamed: Vec<String>,
    depth: usize,
}

impl<'a> Inner<'a> {
    fn new(scope: &'a mut Scope) -> Inner<'a> {
        Inner { scope, sizes: Sizes::default(), renamed: Vec::new(), depth: 0 }
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
        let sizes = query(inner, self.scope)?;
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
        if self.depth == 0
            && let TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } = factor
        {
            self.renamed.extend(alias.columns.iter().map(|column| folded(&column.name)));
        }
        ControlFlow::Continue(())
    }
}

fn query(query: &Query, scope: &mut Scope) -> ControlFlow<Sizes, Sizes> {
    let known = scope.len();
    let mut whole = Sizes::default();
    for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
        let mut sizes = self::query(&cte.query, scope)?;
        let most = sizes.most();
        sizes.columns.extend(cte.alias.columns.iter().map(|column| (folded(&column.name), most)));
        // It is put where it is named; by itself it is planned once.
        whole.tables += 1;
        scope.push((folded(&cte.alias.name), sizes));
    }
    let body = body(&query.body, scope)?;
    whole.add(&body);
    scope.truncate(known);
    match whole.is_too_large() {
        true => ControlFlow::Break(whole),
        false => ControlFlow::Continue(whole),
    }
}

fn body(body: &SetExpr, scope: &mut Scope) -> ControlFlow<Sizes, Sizes> {
    match body {
        SetExpr::Select(inner) => select(inner, scope),
        SetExpr::Query(inner) => query(inner, scope),
        SetExpr::SetOperation { left, right, .. } => {
            let (mut sizes, right) = (self::body(left, scope)?, self::body(right, scope)?);
            // The columns are called as those on the left, whatever they are on the right.
            let most = right.most();
            sizes.tables = sizes.tables.saturating_add(right.tables);
            if most > 1 {
                names(left, &mut sizes.columns, most);
            }
            ControlFlow::Continue(sizes)
        }
        other => {
            let mut inner = Inner::new(scope);
            other.visit(&mut inner)?;
            ControlFlow::Continue(inner.sizes)
        }
    }
}

/// Raises what the columns of a question have.
fn names(body: &SetExpr, columns: &mut HashMap<String, u64>, size: u64) {
    let mut body = body;
    while let SetExpr::SetOperation { left, .. } = body {
        body = left;
    }
    for own in columns.values_mut() {
        *own = (*own).max(size);
    }
    if let SetExpr::Select(select) = body {
        for item in &select.projection {
            if let Some(name) = named(item) {
                let own = columns.entry(name).or_insert(size);
                *own = (*own).max(size);
            }
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
    let Inner { sizes: mut from, renamed, .. } = inner;
    let most = from.most();
    if most > 1 {
        from.columns.extend(renamed.into_iter().map(|name| (name, most)));
    }
    let mut sizes = Sizes { tables: from.tables, columns: HashMap::new() };
    for item in &select.projection {
        match item {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
                let size = size_of(expr, &from.columns);
                if size > 1
                    && let Some(name) = named(item)
                {
                    sizes.columns.insert(name, size);
                }
            }
            _ => sizes.columns.extend(from.columns.clone()),
        }
    }
    match sizes.is_too_large() {
        true => ControlFlow::Break(sizes),
        false => ControlFlow::Continue(sizes),
    }
}

/// Names of columns in an expression, once each stands for its own.
fn size_of(expr: &Expr, columns: &HashMap<String, u64>) -> u64 {
    struct Names<'a>(&'a HashMap<String, u64>, u64);
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
            self.1 = self.1.saturating_add(self.0.get(&folded(name)).copied().unwrap_or(1));
            ControlFlow::Continue(())
        }
    }
    let mut names = Names(columns, 0);
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
        for bad in [tables(40), columns(40), nested(20), renamed(20), united, format!("SELECT ({})", columns(40))] {
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
}
