//! Models in ONNX with the operators of `ai.onnx.ml`: see `foreign_model`.
#![no_main]

use kilter_fuzz::foreign_model;
use kilter_learn::exchange::Format;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| foreign_model(data, &[Format::Onnx]));
