//! Functions of times in UTC, without a look at a zone for each row.
//!
//! In UTC a time and the same time without a zone have the same fields, and DataFusion computes the latter by whole numbers, several times as fast.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::{
    DataType, Field, FieldRef, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use datafusion::common::Result;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

/// Those whose answer for a time in UTC is that for the same time without a zone, or becomes it with the zone.
const SAME: [&str; 2] = ["date_trunc", "date_part"];

/// Makes the functions of a session so.
pub fn without_zones(state: &mut SessionState) -> Result<()> {
    for name in SAME {
        let inner = state.udf(name)?;
        state.register_udf(Arc::new(ScalarUDF::new_from_impl(WithoutZone { inner })))?;
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct WithoutZone {
    inner: Arc<ScalarUDF>,
}

impl ScalarUDFImpl for WithoutZone {
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

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let ScalarFunctionArgs { args, arg_fields, number_rows, return_field, config_options } = args;
        let of_field = |field: FieldRef| match without_zone(field.data_type()) {
            Some(plain) => Arc::new(Field::clone(&field).with_data_type(plain)),
            None => field,
        };
        let args = args.into_iter().map(|arg| match &arg {
            ColumnarValue::Array(array) if without_zone(array.data_type()).is_some() => ColumnarValue::Array(named(array, None)),
            _ => arg,
        });
        let plain = ScalarFunctionArgs {
            args: args.collect(),
            arg_fields: arg_fields.into_iter().map(of_field).collect(),
            number_rows,
            return_field: of_field(Arc::clone(&return_field)),
            config_options,
        };
        Ok(match (self.inner.invoke_with_args(plain)?, return_field.data_type()) {
            (ColumnarValue::Array(array), DataType::Timestamp(_, zone)) => ColumnarValue::Array(named(&array, zone.clone())),
            (answer, _) => answer,
        })
    }

    fn preimage(&self, args: &[Expr], literal: &Expr, info: &SimplifyContext) -> Result<PreimageResult> {
        self.inner.preimage(args, literal, info)
    }

    fn evaluate_bounds(&self, input: &[&Interval]) -> Result<Interval> {
        self.inner.evaluate_bounds(input)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.inner.output_ordering(inputs)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// Of a time in UTC.
fn without_zone(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Timestamp(unit, Some(zone)) if matches!(&**zone, "UTC" | "+00:00") => Some(DataType::Timestamp(*unit, None)),
        _ => None,
    }
}

/// The same instants with another name for their zone.
fn named(array: &ArrayRef, zone: Option<Arc<str>>) -> ArrayRef {
    match array.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => Arc::new(array.as_primitive::<TimestampSecondType>().clone().with_timezone_opt(zone)),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            Arc::new(array.as_primitive::<TimestampMillisecondType>().clone().with_timezone_opt(zone))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Arc::new(array.as_primitive::<TimestampMicrosecondType>().clone().with_timezone_opt(zone))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            Arc::new(array.as_primitive::<TimestampNanosecondType>().clone().with_timezone_opt(zone))
        }
        _ => Arc::clone(array),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{RecordBatch, TimestampMicrosecondArray};
    use datafusion::arrow::datatypes::Schema;
    use datafusion::execution::session_state::SessionStateBuilder;
    use datafusion::prelude::SessionContext;
    use proptest::prelude::*;

    use super::*;

    const UNITS: [&str; 10] = ["microsecond", "millisecond", "second", "minute", "hour", "day", "week", "month", "quarter", "year"];
    const PARTS: [&str; 12] = ["year", "quarter", "month", "week", "day", "hour", "minute", "second", "doy", "dow", "isoyear", "epoch"];

    /// What DataFusion says of each time by itself, or with the functions of this module.
    async fn told(times: &[Option<i64>], zone: &str, own: bool) -> Vec<RecordBatch> {
        let mut state = SessionStateBuilder::new().with_default_features().build();
        if own {
            without_zones(&mut state).unwrap();
        }
        let session = SessionContext::new_with_state(state);
        let array = TimestampMicrosecondArray::from(times.to_vec()).with_timezone(zone);
        let schema = Arc::new(Schema::new(vec![Field::new("t", array.data_type().clone(), true)]));
        session.register_batch("times", RecordBatch::try_new(schema, vec![Arc::new(array)]).unwrap()).unwrap();
        let columns =
            UNITS.iter().map(|unit| format!("date_trunc('{unit}', t)")).chain(PARTS.iter().map(|part| format!("date_part('{part}', t)")));
        let sql = format!("SELECT {} FROM times", columns.collect::<Vec<_>>().join(", "));
        session.sql(&sql).await.unwrap().collect().await.unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn answers_are_those_with_zones(times in prop::collection::vec(prop::option::of(-9_000_000_000_000_000_i64..9_000_000_000_000_000), 1..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for zone in ["UTC", "+00:00", "America/New_York", "+05:30"] {
                let (theirs, ours) = runtime.block_on(async { (told(&times, zone, false).await, told(&times, zone, true).await) });
                prop_assert_eq!(theirs, ours, "{}", zone);
            }
        }
    }
}
