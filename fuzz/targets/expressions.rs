//! One expression: whatever the text, a value of the type told or a complaint that points into the text.
#![no_main]

use kilter_core::Value;
use kilter_features::expr::{Scope, compile};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut scope = Scope::new();
    for field in kilter_fuzz::schema().fields {
        scope.add(None, &field.name, field.data_type);
    }
    scope.add(Some("account"), "last_3", kilter_core::DataType::NumberList);
    scope.add(Some("account"), "by_kind", kilter_core::DataType::NumberMap);
    match compile(text, &scope) {
        Err(problem) => {
            if let Some(at) = problem.at {
                assert!(text.get(at.clone()).is_some(), "{at:?} is no part of the text");
            }
        }
        Ok(expr) => {
            for mut row in kilter_fuzz::rows() {
                row.push(Value::numbers([3.0, -1.5]));
                row.push(Value::map([("card", 12.5), ("cash", 3.0)]));
                let value = expr.eval(&row);
                assert!(value.is_null() || expr.data_type().is_some_and(|t| value.fits(t)), "{value:?} is no {:?}", expr.data_type());
                assert!(value.same_bits(&expr.eval(&row)));
                assert_eq!(expr.holds(&row), value == Value::Bool(true));
            }
        }
    }
});
