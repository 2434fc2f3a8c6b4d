//! Functions that make much of little, within bounds.
//!
//! What one call answers stands in memory at once and in no pool, and it is made without a pause in which a statement could be ended.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::compute::kernels::concat_elements::concat_elements_dyn;
use datafusion::arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, ScalarValue, exec_err};
use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::FunctionRewrite;
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Documentation, Expr, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    TypeSignature, Volatility,
};

/// Bytes that a call may make, for all rows of a batch, beyond those of the text in which it replaces something.
const MOST: u64 = 16 << 20;
/// The same for steps that make nothing.
const STEPS: u64 = 256 << 20;
/// The same for what is put together out of values that are there.
const TOGETHER: u64 = 64 << 20;

/// What a call comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Cost {
    /// A text, and how often.
    Repeated,
    /// A text, a width, and what it is filled with.
    Padded,
    /// A text, what is replaced in it, and by what.
    Replaced,
    /// The same by patterns, which may name what they found.
    Rewritten,
    /// A list, and what stands between its items and in place of null.
    Joined,
    /// Texts one after the other.
    Together,
    /// What stands between texts, and these.
    Between,
    /// A text, and what is put into it.
    Inserted,
    /// Two texts, letter by letter.
    Compared,
    /// Values of any kind, as often as there are rows.
    Gathered,
    /// A text in two letters for each byte.
    Encoded,
    /// A text, and a pattern of which each pair of brackets may find all of it.
    Found,
    /// A time, and how it is written: a mark of two letters may come to many.
    Written,
    /// A list, and in the third place what its items become.
    Placed,
}

const BOUND: [(&str, Cost); 9] = [
    ("repeat", Cost::Repeated),
    ("lpad", Cost::Padded),
    ("rpad", Cost::Padded),
    ("replace", Cost::Replaced),
    ("regexp_replace", Cost::Rewritten),
    ("array_to_string", Cost::Joined),
    ("concat", Cost::Together),
    ("concat_ws", Cost::Between),
    ("levenshtein", Cost::Compared),
];

/// These answer more than they are given, too, though not much more: a statement may call them as often as it likes.
const BOUND_TOO: [(&str, Cost); 15] = [
    ("array_append", Cost::Gathered),
    ("array_concat", Cost::Gathered),
    ("array_prepend", Cost::Gathered),
    ("array_replace", Cost::Gathered),
    ("array_replace_all", Cost::Placed),
    ("array_replace_n", Cost::Placed),
    ("array_union", Cost::Gathered),
    ("encode", Cost::Encoded),
    ("make_array", Cost::Gathered),
    ("map", Cost::Gathered),
    ("named_struct", Cost::Gathered),
    ("overlay", Cost::Inserted),
    ("regexp_match", Cost::Found),
    ("struct", Cost::Gathered),
    ("to_char", Cost::Written),
];

/// Other names of those that are counted.
const ALIASES: [&str; 3] = ["list_to_string", "array_join", "list_join"];

/// Lists of any length, and types of any size. Rows in a number come from `generate_series` after FROM.
const LEFT_OUT: [&str; 9] = [
    "array_repeat",
    "array_resize",
    "arrays_zip",
    "range",
    "generate_series",
    "arrow_cast",
    "arrow_try_cast",
    "cast_to_type",
    "try_cast_to_type",
];

/// Whether calls of a function are counted.
pub fn is_bounded(name: &str) -> bool {
    ALIASES.contains(&name) || BOUND.iter().any(|(known, _)| *known == name)
}

/// Bounds the functions of a session, and takes away those that are not needed.
pub fn bound(state: &mut SessionState) -> Result<()> {
    for name in LEFT_OUT {
        state.deregister_udf(name)?;
    }
    let mut own = HashMap::new();
    for (name, cost) in BOUND.into_iter().chain(BOUND_TOO) {
        let bounded = Arc::new(ScalarUDF::new_from_impl(Bounded { inner: state.udf(name)?, cost }));
        state.register_udf(Arc::clone(&bounded))?;
        own.insert(name, bounded);
    }
    let operator = Arc::new(ScalarUDF::new_from_impl(Operated { signature: Signature::user_defined(Volatility::Immutable) }));
    state.register_function_rewrite(Arc::new(Within { own, operator }))
}

/// Puts the bounded functions where a parser of statements has put the others, as it does for `ARRAY[...]` and `||`.
#[derive(Debug)]
struct Within {
    own: HashMap<&'static str, Arc<ScalarUDF>>,
    operator: Arc<ScalarUDF>,
}

impl FunctionRewrite for Within {
    fn name(&self) -> &str {
        "within_bounds"
    }

    fn rewrite(&self, expr: Expr, _: &DFSchema, _: &ConfigOptions) -> Result<Transformed<Expr>> {
        let call =
            |function: &Arc<ScalarUDF>, args| Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(function), args)));
        Ok(match expr {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::StringConcat, right }) => call(&self.operator, vec![*left, *right]),
            Expr::ScalarFunction(ScalarFunction { func, args }) => match self.own.get(func.name()) {
                Some(own) if !Arc::ptr_eq(own, &func) => call(own, args),
                _ => Transformed::no(Expr::ScalarFunction(ScalarFunction { func, args })),
            },
            other => Transformed::no(other),
        })
    }
}

/// `||` of two texts; null where one of them is.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Operated {
    signature: Signature,
}

impl ScalarUDFImpl for Operated {
    fn name(&self) -> &str {
        "||"
    }

    /// As the operator is written, so that a column keeps its name.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.iter().map(|arg| arg.schema_name().to_string()).collect::<Vec<_>>().join(" || "))
    }

    fn display_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.iter().map(ToString::to_string).collect::<Vec<_>>().join(" || "))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let [left, right] = types else { return exec_err!("|| stands between two texts") };
        BinaryTypeCoercer::new(left, &Operator::StringConcat, right).get_result_type()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [left, right] = types else { return exec_err!("|| stands between two texts") };
        let (left, right) = BinaryTypeCoercer::new(left, &Operator::StringConcat, right).get_input_types()?;
        Ok(vec![left, right])
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Cost::Together.check(self.name(), &args)?;
        let is_constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if is_constant { 1 } else { args.number_rows };
        let arrays = args.args.iter().map(|arg| arg.to_array(rows)).collect::<Result<Vec<_>>>()?;
        let [left, right] = arrays.as_slice() else { return exec_err!("|| stands between two texts") };
        let answer = concat_elements_dyn(left.as_ref(), right.as_ref())?;
        Ok(if is_constant { ColumnarValue::Scalar(ScalarValue::try_from_array(&answer, 0)?) } else { ColumnarValue::Array(answer) })
    }
}

/// A function that looks at its arguments first.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    cost: Cost,
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        match self.inner.signature().type_signature {
            TypeSignature::UserDefined => self.inner.coerce_types(types),
            _ => Ok(types.to_vec()),
        }
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.cost.check(self.name(), &args)?;
        self.inner.invoke_with_args(args)
    }
}

impl Cost {
    /// # Errors
    /// When a call would make too much.
    fn check(self, name: &str, args: &ScalarFunctionArgs) -> Result<()> {
        let (cost, most) = self.of(&args.args, args.number_rows)?;
        if cost > most {
            return exec_err!("{name} would make {cost} bytes, or take as many steps; for the rows of one batch they are {most} at most");
        }
        Ok(())
    }

    /// With what it may come to at most.
    fn of(self, args: &[ColumnarValue], rows: usize) -> Result<(u64, u64)> {
        let is_constant = args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if is_constant { 1 } else { rows };
        if let Cost::Gathered = self {
            return Ok((args.iter().fold(0, |sum, arg| bytes(arg, rows).saturating_add(sum)), TOGETHER));
        }
        let brackets = args.get(1).and_then(brackets);
        let leaves = args.first().and_then(leaves);
        let sizes = args.iter().map(Sizes::of).collect::<Result<Vec<_>>>()?;
        let size = |arg: usize, row: usize| sizes.get(arg).map_or(0, |sizes| sizes.at(row));
        let of_row = |row: usize| match self {
            Cost::Repeated => size(0, row).saturating_mul(size(1, row)),
            // A letter has four bytes at most.
            Cost::Padded => size(1, row).saturating_mul(4),
            Cost::Replaced => size(0, row).saturating_add((size(0, row) / size(1, row).max(1)).saturating_mul(size(2, row))),
            // A pattern may be found between any two letters, and two letters may name the whole text.
            Cost::Rewritten => (size(0, row) + 1).saturating_mul(size(2, row) + 1),
            Cost::Joined => {
                (1..args.len()).fold(0_u64, |sum, arg| sum.saturating_add(size(arg, row))).saturating_mul(leaves.unwrap_or(size(0, row)))
            }
            Cost::Between => (1..args.len())
                .fold(0_u64, |sum, arg| sum.saturating_add(size(arg, row)))
                .saturating_add(size(0, row).saturating_mul(args.len().saturating_sub(2) as u64)),
            Cost::Inserted => size(0, row).saturating_add(size(1, row)),
            Cost::Together => (0..args.len()).fold(0_u64, |sum, arg| sum.saturating_add(size(arg, row))),
            Cost::Compared => size(0, row).saturating_mul(size(1, row)),
            Cost::Gathered => 0,
            Cost::Encoded => size(0, row).saturating_mul(2),
            Cost::Found => size(0, row).saturating_mul(brackets.unwrap_or(size(1, row)).saturating_add(1)),
            Cost::Written => size(1, row).saturating_mul(20),
            Cost::Placed => {
                let placed = args.get(2).map(ColumnarValue::data_type);
                let one = match placed {
                    Some(placed) if placed.is_nested() => args.get(2).map_or(0, |arg| bytes(arg, rows)),
                    Some(placed) if placed.is_string() || placed.is_binary() => size(2, row),
                    _ => 0,
                };
                size(0, row).saturating_mul(one.max(16))
            }
        };
        let all = |of: &dyn Fn(usize) -> u64| (0..rows).fold(0_u64, |sum, row| sum.saturating_add(of(row)));
        let most = match self {
            Cost::Replaced | Cost::Rewritten => MOST.saturating_add(sizes.first().map_or(0, |text| text.sum(rows))),
            Cost::Compared => STEPS,
            Cost::Repeated
            | Cost::Padded
            | Cost::Joined
            | Cost::Together
            | Cost::Between
            | Cost::Inserted
            | Cost::Found
            | Cost::Written => MOST,
            Cost::Gathered | Cost::Encoded | Cost::Placed => TOGETHER,
        };
        Ok((all(&of_row), most))
    }
}

/// What values take in memory: a constant takes it for each row.
fn bytes(arg: &ColumnarValue, rows: usize) -> u64 {
    match arg {
        ColumnarValue::Scalar(value) => {
            let one = match value {
                ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text) => {
                    text.as_ref().map_or(0, String::len)
                }
                ScalarValue::Binary(bytes) | ScalarValue::LargeBinary(bytes) | ScalarValue::BinaryView(bytes) => {
                    bytes.as_ref().map_or(0, Vec::len)
                }
                value if value.data_type().is_nested() => value.size(),
                _ => 16,
            };
            (one as u64 + 8).saturating_mul(rows as u64)
        }
        ColumnarValue::Array(array) => array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size()) as u64,
    }
}

/// How many brackets a pattern opens that is the same for all rows.
fn brackets(pattern: &ColumnarValue) -> Option<u64> {
    let ColumnarValue::Scalar(ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text)) = pattern else {
        return None;
    };
    text.as_ref().map(|text| text.matches('(').count() as u64)
}

/// How many values a list of lists has in all; none: it is a plain one.
fn leaves(lists: &ColumnarValue) -> Option<u64> {
    fn count(array: &ArrayRef) -> u64 {
        match array.data_type() {
            DataType::List(_) => count(array.as_list::<i32>().values()),
            DataType::LargeList(_) => count(array.as_list::<i64>().values()),
            DataType::FixedSizeList(..) => count(array.as_fixed_size_list().values()),
            _ => array.len() as u64,
        }
    }
    let array = match lists {
        ColumnarValue::Scalar(value) => value.to_array().ok()?,
        ColumnarValue::Array(array) => Arc::clone(array),
    };
    let item = match array.data_type() {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => item.data_type().clone(),
        _ => return None,
    };
    item.is_nested().then(|| count(&array))
}

/// Lengths of texts and lists, and numbers as they are.
enum Sizes {
    One(u64),
    Each(Vec<u64>),
}

impl Sizes {
    fn of(arg: &ColumnarValue) -> Result<Sizes> {
        match arg {
            ColumnarValue::Scalar(value) => Ok(Sizes::One(sizes(&value.to_array()?)?.first().copied().unwrap_or(0))),
            ColumnarValue::Array(array) => sizes(array).map(Sizes::Each),
        }
    }

    /// Of what there is: a constant is there once.
    fn sum(&self, rows: usize) -> u64 {
        match self {
            Sizes::One(size) => *size,
            Sizes::Each(sizes) => sizes.iter().take(rows).sum(),
        }
    }

    fn at(&self, row: usize) -> u64 {
        match self {
            Sizes::One(size) => *size,
            Sizes::Each(sizes) => sizes.get(row).copied().unwrap_or(0),
        }
    }
}

fn sizes(array: &ArrayRef) -> Result<Vec<u64>> {
    let rows = 0..array.len();
    let positive = |n: i64| u64::try_from(n).unwrap_or(0);
    let sizes = |size: &dyn Fn(usize) -> u64| rows.clone().map(|row| if array.is_null(row) { 0 } else { size(row) }).collect();
    Ok(match array.data_type() {
        DataType::Utf8 => sizes(&|row| array.as_string::<i32>().value_length(row) as u64),
        DataType::LargeUtf8 => sizes(&|row| array.as_string::<i64>().value_length(row) as u64),
        DataType::Utf8View => sizes(&|row| array.as_string_view().value(row).len() as u64),
        DataType::Binary => sizes(&|row| array.as_binary::<i32>().value_length(row) as u64),
        DataType::LargeBinary => sizes(&|row| array.as_binary::<i64>().value_length(row) as u64),
        DataType::BinaryView => sizes(&|row| array.as_binary_view().value(row).len() as u64),
        DataType::FixedSizeBinary(length) => sizes(&|_| *length as u64),
        DataType::List(_) => sizes(&|row| array.as_list::<i32>().value_length(row) as u64),
        DataType::LargeList(_) => sizes(&|row| array.as_list::<i64>().value_length(row) as u64),
        DataType::FixedSizeList(_, length) => sizes(&|_| *length as u64),
        data_type if data_type.is_numeric() => {
            let numbers = cast(array, &DataType::Int64)?;
            let numbers = numbers.as_primitive::<Int64Type>();
            rows.map(|row| if numbers.is_null(row) { 0 } else { positive(numbers.value(row)) }).collect()
        }
        DataType::Null => sizes(&|_| 0),
        data_type if data_type.is_nested() => {
            let whole = array.to_data().get_slice_memory_size().unwrap_or_else(|_| array.get_array_memory_size()) as u64;
            sizes(&|_| whole)
        }
        // A time or a truth, as a text.
        _ => sizes(&|_| 40),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use datafusion::arrow::util::pretty::pretty_format_batches;
    use datafusion::execution::session_state::SessionStateBuilder;
    use datafusion::prelude::SessionContext;

    use super::*;

    /// Functions of which none makes much of little, but for those that are bounded.
    const LOOKED_AT: &str = "abs acos acosh array_add array_any_value array_append array_avg array_compact array_concat array_dims array_distance \
         array_distinct array_element array_except array_has array_has_all array_has_any array_intersect array_length array_max array_min \
         array_ndims array_normalize array_pop_back array_pop_front array_position array_positions array_prepend array_product array_remove \
         array_remove_all array_remove_n array_replace array_replace_all array_replace_n array_reverse array_scale array_slice array_sort \
         array_subtract array_sum array_to_string array_union arrow_field arrow_metadata arrow_typeof ascii asin asinh atan \
         atan2 atanh bit_length btrim cardinality cbrt ceil character_length chr coalesce concat concat_ws contains cos cosh \
         cosine_distance cot current_date current_time date_bin date_part date_trunc decode degrees empty encode ends_with exp factorial \
         file_row_index find_in_set flatten floor from_unixtime gcd get_field greatest initcap inner_product input_file_name isnan iszero \
         lcm least left levenshtein ln log log10 log2 lower lpad ltrim make_array make_date make_time map map_entries map_extract map_keys \
         map_values named_struct nanvl now nullif nvl nvl2 octet_length overlay pi power radians random regexp_count regexp_instr \
         regexp_like regexp_match regexp_replace repeat replace reverse right round rpad rtrim signum sin sinh split_part sqrt starts_with \
         string_to_array strpos struct substr substr_index tan tanh to_char to_date to_hex to_local_time to_time to_timestamp \
         to_timestamp_micros to_timestamp_millis to_timestamp_nanos to_timestamp_seconds to_unixtime translate trunc union_extract \
         union_tag upper uuid version with_metadata";

    fn state() -> SessionState {
        let mut state = SessionStateBuilder::new().with_default_features().build();
        bound(&mut state).unwrap();
        state
    }

    #[test]
    fn every_function_was_looked_at() {
        let state = state();
        let found: BTreeSet<&str> = state.scalar_functions().values().map(|function| function.name()).collect();
        let expected: BTreeSet<&str> = LOOKED_AT.split(' ').collect();
        let new: Vec<_> = found.difference(&expected).collect();
        assert!(new.is_empty(), "{new:?} are new: bound them, leave them out, or list them here");
        assert!(found.is_superset(&expected), "{:?} are gone", expected.difference(&found));
        for (alias, function) in state.scalar_functions() {
            assert_eq!(is_bounded(alias), is_bounded(function.name()), "{alias}");
        }
    }

    /// What is put in its place says what the operator said.
    #[tokio::test]
    async fn texts_side_by_side_are_those_of_the_operator() {
        for expr in [
            "'a' || 'b'",
            "a || b",
            "of groups: a || b",
            "a || 'x' || b",
            "a || NULL",
            "n || a",
            "a || n || t || d",
            "b || b = 'zz'",
            "concat_ws(a || b, a, b, n)",
            "array_to_string(ARRAY[ARRAY[a, b], ARRAY[b]], '-')",
            "array_replace_all(ARRAY[a, b, a], b, 'q')",
            "array_replace(ARRAY[n, 1], 1, 2)",
            "array_replace_all(ARRAY[n, 1], 1, 2000000000)",
            "regexp_match(b, '(z)(z*)')",
            "to_char(d, '%d.%m.%Y')",
            "arrow_typeof(a || b)",
            "ARRAY[a, b] || b",
            "a || ARRAY[b] || ARRAY[a, NULL]",
            "max(a || b) OVER ()",
            "encode(arrow_cast(a, 'Binary') || arrow_cast(b, 'Binary'), 'hex')",
            "struct(a, n)",
            "named_struct('x', a, 'y', ARRAY[n, 1])",
            "MAP {'x': a, 'y': b}",
            "overlay(a placing b from 1 for 1)",
        ] {
            let rows = "(VALUES ('u', 'v', 1, true, date '2026-01-02'), (NULL, 'z', NULL, false, NULL), ('ä', '', -3, NULL, NULL)) AS t (a, b, n, t, d)";
            let sql = match expr.strip_prefix("of groups: ") {
                Some(expr) => format!("SELECT {expr}, count(*), grouping({expr}) FROM {rows} GROUP BY ROLLUP ({expr}) ORDER BY 1, 2, 3"),
                None => format!("SELECT {expr} FROM {rows}"),
            };
            let mut told = Vec::new();
            for is_bound in [false, true] {
                let mut state = SessionStateBuilder::new().with_default_features().build();
                let cast = state.udf("arrow_cast").unwrap();
                if is_bound {
                    bound(&mut state).unwrap();
                    state.register_udf(cast).unwrap();
                }
                let batches = SessionContext::new_with_state(state).sql(&sql).await.unwrap().collect().await.unwrap();
                told.push((batches[0].schema().field(0).name().clone(), pretty_format_batches(&batches).unwrap().to_string()));
            }
            assert_eq!(told[0], told[1], "{expr}");
        }
    }

    #[tokio::test]
    async fn a_call_makes_no_more_than_it_may() {
        let session = SessionContext::new_with_state(state());
        let ask = async |sql: &str| session.sql(sql).await?.collect().await.map(drop);
        for bad in [
            "SELECT repeat('x', 20000000)",
            "SELECT lpad('x', 5000000)",
            "SELECT concat(repeat('x', 9000000), repeat('y', 9000000))",
            "SELECT replace(repeat('x', 9000000), 'x', 'yyy')",
            "SELECT regexp_replace(repeat('x', 9000000), 'x', 'yyy')",
            "SELECT arrow_try_cast(make_array(1), 'FixedSizeList(2000000000, Int64)')",
            "SELECT repeat('x', 9000000) || repeat('y', 9000000)",
            "SELECT x || x FROM (VALUES (repeat('x', 9000000))) AS t (x)",
            "SELECT make_array(x, x, x, x, x, x, x, x) FROM (VALUES (repeat('x', 9000000))) AS t (x)",
            "SELECT ARRAY[x, x, x, x, x, x, x, x] FROM (VALUES (repeat('x', 9000000))) AS t (x)",
            "SELECT a || a || a FROM (VALUES (make_array(repeat('x', 9000000), repeat('x', 9000000), repeat('x', 9000000)))) AS t (a)",
            "SELECT list_concat(a, a, a) FROM (VALUES (make_array(repeat('x', 9000000), repeat('x', 9000000), repeat('x', 9000000)))) AS t (a)",
            "SELECT overlay(x placing x from 1 for 0) FROM (VALUES (repeat('x', 9000000))) AS t (x)",
            "SELECT encode(x, 'hex') FROM (VALUES (repeat('x', 16000000) || ''), (repeat('y', 16000000)), (repeat('z', 16000000))) AS t (x)",
            "SELECT concat_ws(repeat('x', 9000000), 'a', 'b', 'c')",
            "SELECT array_to_string(ARRAY[string_to_array(repeat('x', 1000000), NULL)], repeat('y', 100))",
            "SELECT array_replace_all(string_to_array(repeat('x', 100), NULL), 'x', repeat('y', 1000000))",
            "SELECT regexp_match(x, '((((x*))))') FROM (VALUES (repeat('x', 9000000))) AS t (x)",
            "SELECT to_char(timestamp '2026-01-01', repeat('%c', 1000000))",
        ] {
            assert!(ask(bad).await.is_err(), "{bad}");
        }
        for good in [
            "SELECT length(replace(repeat('x', 9000000), 'x', 'y'))",
            "SELECT concat(repeat('x', 8000000), repeat('y', 8000000))",
            "SELECT repeat('x', 8000000) || repeat('y', 8000000)",
            "SELECT make_array(x, x, x) FROM (VALUES (repeat('x', 9000000))) AS t (x)",
            "SELECT regexp_match(x, '^(x*)$') FROM (VALUES (repeat('x', 8000000))) AS t (x)",
        ] {
            ask(good).await.unwrap_or_else(|e| panic!("{good}: {e}"));
        }
    }
}
