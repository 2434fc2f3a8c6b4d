//! Third-party crates live where the map says, so that a heavy one stays in its leaf.

use super::Law;
use crate::house::{Breach, House, MAP};

pub const LAW: Law = Law { says: "each crate uses the third-party crates the map gives it, and no others", check };

fn check(house: &House) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for c in &house.crates {
        let Some(room) = house.map.rooms.get(&c.name) else { continue };
        for guest in c.dependencies.iter().filter(|d| !house.is_own(d) && !room.guests.contains(*d)) {
            breaches.push(Breach::new(c.manifest_path(), format!("uses {guest}, which {MAP} does not list for {}", c.name)));
        }
        for guest in room.guests.iter().filter(|g| !c.dependencies.contains(*g)) {
            breaches.push(Breach::new(MAP, format!("{guest} is listed for {}, whose manifest does not have it", c.name)));
        }
        let known = |d: &String| house.is_own(d) || room.guests.contains(d) || house.map.test_guests.contains(d);
        for guest in c.dev_dependencies.iter().filter(|d| !known(d)) {
            breaches.push(Breach::new(c.manifest_path(), format!("its tests use {guest}, which {MAP} does not list")));
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    #[test]
    fn holds() {
        super::super::hold(&super::LAW);
    }
}
