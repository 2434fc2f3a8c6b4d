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

/// Bytes that a call may answer, and steps that it may take, for all rows of a batch.
const MOST: u64 = 256 << 20;

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

/// Lists of any length, and texts that are not counted in 32 bits. Rows in a number come from `generate_series` after FROM.
const LEFT_OUT: [&str; 5] = ["array_repeat", "array_resize", "range", "generate_series", "arrow_cast"];

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
        let cost = self.cost.of(&args.args, args.number_rows)?;
        if cost > MOST {
            let name = self.name();
            return exec_err!("{name} would make {cost} bytes, or take as many steps; for the rows of one batch they are {MOST} at most");
        }
        self.inner.invoke_with_args(args)
    }
}

impl Cost {
    fn of(self, args: &[ColumnarValue], rows: usize) -> Result<u64> {
        let is_constant = args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if is_constant { 1 } else { rows };
        let sizes = args.iter().map(|arg| Sizes::of(arg)).collect::<Result<Vec<_>>>()?;
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
        Ok((0..rows).fold(0_u64, |sum, row| sum.saturating_add(of_row(row))))
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
