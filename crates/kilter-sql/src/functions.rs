//! Functions that make much of little, within bounds.
//!
//! What one call answers stands in memory at once and in no pool, and it is made without a pause in which a statement could be ended.

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::{Result, exec_err};
use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature,
};
use std::sync::Arc;

/// Bytes that a call may make, for all rows of a batch, beyond those of the text in which it replaces something.
const MOST: u64 = 16 << 20;
/// The same for steps that make nothing.
const STEPS: u64 = 256 << 20;

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
    /// Two texts, letter by letter.
    Compared,
}

const BOUND: [(&str, Cost); 9] = [
    ("repeat", Cost::Repeated),
    ("lpad", Cost::Padded),
    ("rpad", Cost::Padded),
    ("replace", Cost::Replaced),
    ("regexp_replace", Cost::Rewritten),
    ("array_to_string", Cost::Joined),
    ("concat", Cost::Together),
    ("concat_ws", Cost::Together),
    ("levenshtein", Cost::Compared),
];

/// Other names of these.
const ALIASES: [&str; 3] = ["list_to_string", "array_join", "list_join"];

/// Lists of any length, and types of any size. Rows in a number come from `generate_series` after FROM.
const LEFT_OUT: [&str; 8] =
    ["array_repeat", "array_resize", "range", "generate_series", "arrow_cast", "arrow_try_cast", "cast_to_type", "try_cast_to_type"];

/// Whether calls of a function are counted.
pub fn is_bounded(name: &str) -> bool {
    ALIASES.contains(&name) || BOUND.iter().any(|(known, _)| *known == name)
}

/// Bounds the functions of a session, and takes away those that are not needed.
pub fn bound(state: &mut SessionState) -> Result<()> {
    for name in LEFT_OUT {
        state.deregister_udf(name)?;
    }
    for (name, cost) in BOUND {
        let inner = state.udf(name)?;
        state.register_udf(Arc::new(ScalarUDF::new_from_impl(Bounded { inner, cost })))?;
    }
    Ok(())
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
        let (cost, most) = self.cost.of(&args.args, args.number_rows)?;
        if cost > most {
            let name = self.name();
            return exec_err!("{name} would make {cost} bytes, or take as many steps; for the rows of one batch they are {most} at most");
        }
        self.inner.invoke_with_args(args)
    }
}

impl Cost {
    /// With what it may come to at most.
    fn of(self, args: &[ColumnarValue], rows: usize) -> Result<(u64, u64)> {
        let is_constant = args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if is_constant { 1 } else { rows };
        let sizes = args.iter().map(Sizes::of).collect::<Result<Vec<_>>>()?;
        let size = |arg: usize, row: usize| sizes.get(arg).map_or(0, |sizes| sizes.at(row));
        let of_row = |row: usize| match self {
            Cost::Repeated => size(0, row).saturating_mul(size(1, row)),
            // A letter has four bytes at most.
            Cost::Padded => size(1, row).saturating_mul(4),
            Cost::Replaced => size(0, row).saturating_add((size(0, row) / size(1, row).max(1)).saturating_mul(size(2, row))),
            // A pattern may be found between any two letters, and two letters may name the whole text.
            Cost::Rewritten => (size(0, row) + 1).saturating_mul(size(2, row) + 1),
            Cost::Joined => (1..args.len()).fold(0_u64, |sum, arg| sum.saturating_add(size(arg, row))).saturating_mul(size(0, row)),
            Cost::Together => (0..args.len()).fold(0_u64, |sum, arg| sum.saturating_add(size(arg, row))),
            Cost::Compared => size(0, row).saturating_mul(size(1, row)),
        };
        let all = |of: &dyn Fn(usize) -> u64| (0..rows).fold(0_u64, |sum, row| sum.saturating_add(of(row)));
        let most = match self {
            Cost::Replaced | Cost::Rewritten => MOST.saturating_add(sizes.first().map_or(0, |text| text.sum(rows))),
            Cost::Compared => STEPS,
            Cost::Repeated | Cost::Padded | Cost::Joined | Cost::Together => MOST,
        };
        Ok((all(&of_row), most))
    }
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
        DataType::List(_) => sizes(&|row| array.as_list::<i32>().value_length(row) as u64),
        DataType::LargeList(_) => sizes(&|row| array.as_list::<i64>().value_length(row) as u64),
        DataType::FixedSizeList(_, length) => sizes(&|_| *length as u64),
        data_type if data_type.is_numeric() => {
            let numbers = cast(array, &DataType::Int64)?;
            let numbers = numbers.as_primitive::<Int64Type>();
            rows.map(|row| if numbers.is_null(row) { 0 } else { positive(numbers.value(row)) }).collect()
        }
        _ => sizes(&|_| 0),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use datafusion::execution::session_state::SessionStateBuilder;
    use datafusion::prelude::SessionContext;

    use super::*;

    /// Functions of which none makes much of little, but for those that are bounded.
    const LOOKED_AT: &str = "abs acos acosh array_add array_any_value array_append array_avg array_compact array_concat array_dims array_distance \
         array_distinct array_element array_except array_has array_has_all array_has_any array_intersect array_length array_max array_min \
         array_ndims array_normalize array_pop_back array_pop_front array_position array_positions array_prepend array_product array_remove \
         array_remove_all array_remove_n array_replace array_replace_all array_replace_n array_reverse array_scale array_slice array_sort \
         array_subtract array_sum array_to_string array_union arrays_zip arrow_field arrow_metadata arrow_typeof ascii asin asinh atan \
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
        ] {
            assert!(ask(bad).await.is_err(), "{bad}");
        }
        for good in ["SELECT length(replace(repeat('x', 9000000), 'x', 'y'))", "SELECT concat(repeat('x', 8000000), repeat('y', 8000000))"]
        {
            ask(good).await.unwrap_or_else(|e| panic!("{good}: {e}"));
        }
    }
}
