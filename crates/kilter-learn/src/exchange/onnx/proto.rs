//! ONNX's messages as far as models of trees and lines need them, by the field numbers of `onnx.proto`.
//!
//! Lists of messages are kept as the bytes they are: a reader counts them before it takes one up, so that a short file full of empty messages
//! cannot ask for memory out of proportion.

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub struct Model {
    #[prost(int64, optional, tag = "1")]
    pub ir_version: Option<i64>,
    #[prost(string, optional, tag = "2")]
    pub producer_name: Option<String>,
    #[prost(string, optional, tag = "3")]
    pub producer_version: Option<String>,
    #[prost(message, optional, tag = "7")]
    pub graph: Option<Graph>,
    /// Of `Opset`.
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub opset_import: Vec<Vec<u8>>,
    /// Of `Property`.
    #[prost(bytes = "vec", repeated, tag = "14")]
    pub metadata: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Opset {
    #[prost(string, optional, tag = "1")]
    pub domain: Option<String>,
    #[prost(int64, optional, tag = "2")]
    pub version: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Property {
    #[prost(string, optional, tag = "1")]
    pub key: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub value: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Graph {
    /// Of `Node`.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub nodes: Vec<Vec<u8>>,
    #[prost(string, optional, tag = "2")]
    pub name: Option<String>,
    /// Of `Tensor`.
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub constants: Vec<Vec<u8>>,
    /// Of `Named`.
    #[prost(bytes = "vec", repeated, tag = "11")]
    pub inputs: Vec<Vec<u8>>,
    /// Of `Named`.
    #[prost(bytes = "vec", repeated, tag = "12")]
    pub outputs: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Node {
    #[prost(string, repeated, tag = "1")]
    pub inputs: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub outputs: Vec<String>,
    #[prost(string, optional, tag = "4")]
    pub operator: Option<String>,
    /// Of `Attribute`.
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub attributes: Vec<Vec<u8>>,
    #[prost(string, optional, tag = "7")]
    pub domain: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Attribute {
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    #[prost(float, optional, tag = "2")]
    pub float: Option<f32>,
    #[prost(int64, optional, tag = "3")]
    pub int: Option<i64>,
    #[prost(bytes = "vec", optional, tag = "4")]
    pub text: Option<Vec<u8>>,
    #[prost(message, optional, tag = "5")]
    pub tensor: Option<Tensor>,
    #[prost(float, repeated, packed = "false", tag = "7")]
    pub floats: Vec<f32>,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub texts: Vec<Vec<u8>>,
    /// One of the numbers of `kind`.
    #[prost(int32, optional, tag = "20")]
    pub kind: Option<i32>,
}

/// What an attribute holds.
pub mod kind {
    pub const INT: i32 = 2;
    pub const TENSOR: i32 = 4;
    pub const INTS: i32 = 7;
}

#[derive(Clone, PartialEq, Message)]
pub struct Tensor {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub dims: Vec<i64>,
    /// One of the numbers of `element`.
    #[prost(int32, optional, tag = "2")]
    pub element: Option<i32>,
    #[prost(float, repeated, tag = "4")]
    pub floats: Vec<f32>,
    #[prost(int32, repeated, tag = "5")]
    pub ints: Vec<i32>,
    #[prost(string, optional, tag = "8")]
    pub name: Option<String>,
    #[prost(bytes = "vec", optional, tag = "9")]
    pub raw: Option<Vec<u8>>,
    #[prost(double, repeated, tag = "10")]
    pub doubles: Vec<f64>,
    /// 1: the numbers lie in a file beside.
    #[prost(int32, optional, tag = "14")]
    pub location: Option<i32>,
}

/// What a tensor holds.
pub mod element {
    pub const FLOAT: i32 = 1;
    pub const UINT8: i32 = 2;
    pub const DOUBLE: i32 = 11;
}

/// An input or output.
#[derive(Clone, PartialEq, Message)]
pub struct Named {
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    #[prost(message, optional, tag = "2")]
    pub of: Option<Type>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Type {
    /// None: no tensor, but a list or a map.
    #[prost(message, optional, tag = "1")]
    pub tensor: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TensorType {
    #[prost(int32, optional, tag = "1")]
    pub element: Option<i32>,
    #[prost(message, optional, tag = "2")]
    pub shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Shape {
    /// Of `Dimension`.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub dims: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Dimension {
    /// None: it is not known, or has a name.
    #[prost(int64, optional, tag = "1")]
    pub size: Option<i64>,
    #[prost(string, optional, tag = "2")]
    pub name: Option<String>,
}
