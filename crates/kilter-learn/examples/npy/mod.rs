//! Arrays of numpy that examples read: 32-bit floats in row order.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::error::Error;

use kilter_learn::Matrix;

/// Shape and values of an array.
fn npy(path: &str) -> Result<(Vec<usize>, Vec<f32>), Box<dyn Error>> {
    let bytes = std::fs::read(path)?;
    let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = std::str::from_utf8(&bytes[10..10 + length])?;
    if !header.contains("'<f4'") || header.contains("'fortran_order': True") {
        return Err(format!("{path}: 32-bit floats in row order are needed, its header is {header}").into());
    }
    let shape = header.split("'shape': (").nth(1).and_then(|rest| rest.split(')').next()).ok_or("no shape")?;
    let shape = shape.split(',').filter_map(|size| size.trim().parse().ok()).collect();
    let (values, _) = bytes[10 + length..].as_chunks::<4>();
    Ok((shape, values.iter().map(|&four| f32::from_le_bytes(four)).collect()))
}

pub fn matrix(path: &str) -> Result<Matrix, Box<dyn Error>> {
    let (shape, values) = npy(path)?;
    let mut matrix = Matrix::with_columns((0..shape[1]).map(|column| format!("x{column}")).collect());
    let mut row = vec![0.0; shape[1]];
    for values in values.chunks_exact(shape[1]) {
        row.iter_mut().zip(values).for_each(|(to, &value)| *to = f64::from(value));
        matrix.push_row(&row);
    }
    Ok(matrix)
}

pub fn labels(path: &str) -> Result<Vec<f64>, Box<dyn Error>> {
    Ok(npy(path)?.1.into_iter().map(f64::from).collect())
}
