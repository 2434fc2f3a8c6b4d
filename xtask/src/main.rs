//! The laws of the house. `cargo test -p xtask` holds them, `cargo run -p xtask` shows each with its state.
//!
//! A law is one file in `laws/` and one line in [`laws::ALL`]. ARCHITECTURE.md names them for people; what can be read from a page
//! (who may import whom) is read from there and stands nowhere else.
#![allow(clippy::print_stdout)]

mod house;
mod laws;

use std::process::ExitCode;

use house::House;

fn main() -> ExitCode {
    let house = House::open();
    let mut broken = 0;
    for law in laws::ALL {
        let breaches = (law.check)(&house);
        println!("{}  {}", if breaches.is_empty() { "holds " } else { "BROKEN" }, law.says);
        for breach in &breaches {
            println!("        {breach}");
        }
        broken += usize::from(!breaches.is_empty());
    }
    if broken == 0 {
        return ExitCode::SUCCESS;
    }
    println!("\n{broken} of {} laws are broken", laws::ALL.len());
    ExitCode::FAILURE
}
