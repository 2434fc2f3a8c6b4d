//! The aggregate of a line with its arguments, typed.

use std::ops::Range;

use kilter_core::{DataType, Problem, Value};

use super::line::{Line, Piece};
use super::window::{Extent, Window};
use crate::aggregators::{self, Aggregator, Bound, Constants, DEFAULT_CATEGORIES, MAX_CATEGORIES, Takes};
use crate::expr::{self, Expr, Scope, shifted};

/// The most edges of a histogram and the largest k.
const MAX_EDGES: usize = 100;
const MAX_COUNT: f64 = 1_000.0;

pub(super) struct Call {
    pub aggregate: &'static Aggregator,
    pub arg: Option<Expr>,
    /// The second argument, or the category.
    pub other: Option<Expr>,
    pub by: bool,
    pub constants: Vec<f64>,
    /// Where the first argument stands in the line.
    at: Range<usize>,
}

impl Call {
    pub(super) fn parse(line: &Line<'_>, scope: &Scope) -> Result<Call, Problem> {
        let written = &line.aggregate;
        let name = written.text.to_lowercase();
        let Some(aggregate) = aggregators::find(&name) else {
            let problem = match expr::functions::names().any(|f| f == name) {
                true => Problem::new("not_an_aggregate", format!("`{}` is a function of one row, not an aggregate", written.text))
                    .hint(format!("put it inside one, as in sum({}(x)); aggregates: {}", name, kilter_core::list(aggregators::names()))),
                false => Problem::unknown("unknown_aggregate", "aggregate", written.text, aggregators::names()),
            };
            return Err(problem.at(written.range()));
        };
        let whole = written.start..line.args.last().map_or(written.range().end, |a| a.range().end);
        if let Some(first) = line.args.first()
            && first.text.get(..9).is_some_and(|w| w.eq_ignore_ascii_case("distinct "))
        {
            let problem = Problem::new("not_supported", "DISTINCT inside an aggregate").hint("approx_distinct(x) counts different values");
            return Err(problem.at(first.range()));
        }
        let takes = |needs: &str| {
            let problem = Problem::new("argument_count", format!("{name} takes {needs}, not {} arguments", line.args.len()));
            Err(problem.at(whole.clone()))
        };
        let (arg, other, rest): (Option<&Piece<'_>>, Option<&Piece<'_>>, &[Piece<'_>]) = match (aggregate.takes, line.args.as_slice()) {
            (Takes::StarOrValue, [star]) if star.text == "*" => (None, None, &[]),
            (Takes::Nothing, []) => (None, None, &[]),
            (Takes::StarOrValue | Takes::Value | Takes::Condition, [arg]) => (Some(arg), None, &[]),
            (Takes::ValueAndOrder, [arg, other]) => (Some(arg), Some(other), &[]),
            (Takes::ValueAnd(Constants::Fraction | Constants::Count), [arg, _]) => (Some(arg), None, &line.args[1..]),
            (Takes::ValueAnd(Constants::Edges), [arg, _, ..]) => (Some(arg), None, &line.args[1..]),
            (Takes::StarOrValue, _) => return takes("* or one argument"),
            (Takes::Nothing, _) => return takes("nothing between its parentheses"),
            (Takes::Value, _) => return takes("one argument"),
            (Takes::Condition, _) => return takes("one condition"),
            (Takes::ValueAndOrder, _) => return takes("a value and what to choose by, as in argmax(merchant, amount)"),
            (Takes::ValueAnd(Constants::Fraction), _) => return takes("a value and a fraction, as in quantile(amount, 0.95)"),
            (Takes::ValueAnd(Constants::Count), _) => return takes("a value and how many, as in last_k(amount, 5)"),
            (Takes::ValueAnd(Constants::Edges), _) => return takes("a value and ascending edges, as in histogram(amount, 10, 100, 1000)"),
        };
        let typed = |piece: &Piece<'_>| -> Result<Expr, Problem> {
            let expr = expr::compile(piece.text, scope).map_err(|p| shifted(p, piece.start))?;
            match expr.data_type() {
                None => Err(Problem::new("type_mismatch", format!("`{}` is always null", piece.text)).at(piece.range())),
                Some(t) if t.is_nested() => Err(Problem::new("type_mismatch", format!("`{}` is {t}", piece.text))
                    .hint("take one number of it, with element() or get()")
                    .at(piece.range())),
                Some(_) => Ok(expr),
            }
        };
        let at = arg.unwrap_or(written).range();
        let arg = arg.map(typed).transpose()?;
        let mut other = match other {
            None => None,
            Some(piece) => {
                let expr = typed(piece)?;
                match expr.data_type() {
                    Some(DataType::Int64 | DataType::Float64 | DataType::Timestamp) => Some(expr),
                    t => {
                        let is = t.map_or("null", DataType::name);
                        let problem =
                            Problem::new("type_mismatch", format!("`{}` is {is}; {name} chooses by a number or a time", piece.text));
                        return Err(problem.hint("as in argmax(merchant, amount): the merchant of the largest amount").at(piece.range()));
                    }
                }
            }
        };
        let mut constants = match aggregate.takes {
            Takes::ValueAnd(kind) => constants(kind, rest)?,
            _ => Vec::new(),
        };
        let by = line.by.is_some();
        if let Some(piece) = &line.by {
            if other.is_some() || !constants.is_empty() {
                return Err(not_by_category(&name).at(piece.range()));
            }
            let (category, most) = category(piece)?;
            let expr = typed(&category)?;
            if matches!(expr.data_type(), Some(DataType::Float64 | DataType::Timestamp)) {
                let is = expr.data_type().map_or("null", DataType::name);
                return Err(Problem::new(
                    "type_mismatch",
                    format!("`{}` is {is}; a category is a string, an int64 or a bool", category.text),
                )
                .hint("make few of many, as in case when amount > 100 then 'large' else 'small' end")
                .at(category.range()));
            }
            other = Some(expr);
            constants.push(most);
        }
        let call = Call { aggregate, arg, other, by, constants, at };
        // A mistake of types is told whatever the window is.
        call.typed((aggregate.bind)(call.data_type()), line)?;
        Ok(call)
    }

    fn data_type(&self) -> Option<DataType> {
        self.arg.as_ref().and_then(Expr::data_type)
    }

    fn typed(&self, bound: Result<Bound, &'static str>, line: &Line<'_>) -> Result<Bound, Problem> {
        let name = line.aggregate.text.to_lowercase();
        bound.map_err(|needs| {
            let text = line.args.first().map_or(line.aggregate.text, |a| a.text);
            let is = self.data_type().map_or("nothing", DataType::name);
            let problem = Problem::new("type_mismatch", format!("`{text}` is {is}; {name} needs {needs}")).at(self.at.clone());
            match self.data_type() {
                Some(DataType::Bool) => problem.hint(format!("count the rows where it holds: count(*) where {text}")),
                Some(DataType::String) => problem.hint("cast it (x::float64), or count its values with approx_distinct(x)"),
                _ => problem,
            }
        })
    }

    /// The aggregate for a window.
    pub(super) fn bind(&self, window: &Window, line: &Line<'_>) -> Result<Bound, Problem> {
        let name = self.aggregate.names[0];
        let bound = match (window.extent, self.aggregate.decayed) {
            (Extent::Decay(_), None) => {
                let able = aggregators::ALL.iter().filter(|a| a.decayed.is_some()).map(|a| a.names[0]);
                let problem = Problem::new("not_supported", format!("{name} does not decay"));
                return Err(problem.hint(format!("these do: {}", kilter_core::list(able))));
            }
            (Extent::Decay(_), Some(_)) if self.by => {
                return Err(Problem::new("not_supported", "a decaying aggregate by category")
                    .hint("write one line per category, as in sum(amount) where kind = 'card' over decay 7d"));
            }
            (Extent::Decay(_), Some(decayed)) => self.typed(decayed(self.data_type()), line)?,
            _ => self.typed((self.aggregate.bind)(self.data_type()), line)?,
        };
        if !self.by {
            return Ok(bound);
        }
        let numeric = matches!(bound.result, DataType::Int64 | DataType::Float64);
        match bound.ops.by_category().filter(|_| numeric) {
            None => Err(not_by_category(name)),
            Some(ops) => Ok(Bound { ops, result: DataType::NumberMap, shaped: true, order_sensitive: true, constants: &[], ..bound }),
        }
    }
}

fn not_by_category(name: &str) -> Problem {
    Problem::new("not_supported", format!("{name} by category"))
        .hint("count, sum, mean, min, max, variance and other plain numbers can be had by category; for others write one line per category")
}

/// `kind` or `kind max 100`.
fn category<'a>(piece: &Piece<'a>) -> Result<(Piece<'a>, f64), Problem> {
    let lower = piece.text.to_ascii_lowercase();
    let Some((head, most)) = lower.rsplit_once(" max ") else { return Ok((piece.clone(), DEFAULT_CATEGORIES)) };
    match most.trim().parse::<u32>().map(f64::from) {
        Ok(n) if (1.0..=MAX_CATEGORIES).contains(&n) => Ok((Piece { text: piece.text[..head.len()].trim_end(), start: piece.start }, n)),
        _ => Err(Problem::new("bad_literal", format!("`{}` is no number of categories", most.trim()))
            .hint(format!("from 1 to {MAX_CATEGORIES}, as in sum(amount) by kind max 50"))
            .at(piece.range())),
    }
}

fn constants(kind: Constants, pieces: &[Piece<'_>]) -> Result<Vec<f64>, Problem> {
    let mut numbers: Vec<f64> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let value = expr::compile(piece.text, &Scope::new()).ok().and_then(|e| e.as_constant().and_then(Value::as_f64));
        let bad = |needs: String, hint: &str| {
            Err(Problem::new("bad_literal", format!("`{}` is not {needs}", piece.text)).hint(hint).at(piece.range()))
        };
        match (kind, value) {
            (Constants::Fraction, Some(p)) if (0.0..=1.0).contains(&p) => numbers.push(p),
            (Constants::Fraction, _) => return bad("a number between 0 and 1".into(), "the median is quantile(x, 0.5)"),
            (Constants::Count, Some(k)) if (1.0..=MAX_COUNT).contains(&k) && k.fract() == 0.0 => numbers.push(k),
            (Constants::Count, _) => return bad(format!("a whole number from 1 to {MAX_COUNT}"), "as in last_k(amount, 5)"),
            (Constants::Edges, _) if numbers.len() == MAX_EDGES => {
                return bad(format!("needed: {MAX_EDGES} edges are the limit"), "use fewer and wider bins");
            }
            (Constants::Edges, Some(edge)) if edge.is_finite() && numbers.last().is_none_or(|last| *last < edge) => numbers.push(edge),
            (Constants::Edges, _) => return bad("a number above the edge before it".into(), "as in histogram(amount, 10, 100, 1000)"),
        }
    }
    Ok(numbers)
}
