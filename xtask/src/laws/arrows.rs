//! Who imports whom: manifests and the map say the same, and every arrow goes down.

use super::Law;
use crate::house::{Breach, House, MAP, Map};

pub const LAW: Law = Law { says: "arrows between crates are those of the map, and only go down", check };

fn check(house: &House) -> Vec<Breach> {
    let mut breaches = uphill(&house.map);
    for c in &house.crates {
        let Some(room) = house.map.rooms.get(&c.name) else {
            breaches.push(Breach::new(MAP, format!("the table of crates has no row for {}", c.name)));
            continue;
        };
        let own = c.dependencies.iter().filter(|d| house.is_own(d));
        for import in own.clone().filter(|d| !room.imports.contains(*d)) {
            breaches.push(Breach::new(c.manifest_path(), format!("imports {import}, which {MAP} does not list")));
        }
        for import in room.imports.iter().filter(|i| !c.dependencies.contains(*i)) {
            breaches.push(Breach::new(MAP, format!("{} is said to import {import}, its manifest does not", c.name)));
        }
        // Tests may look at more of the house, but not up.
        let floor = |name: &str| house.map.rooms.get(name).map_or(0, |r| r.floor);
        for import in c.dev_dependencies.iter().filter(|d| house.is_own(d) && floor(d) >= room.floor) {
            breaches.push(Breach::new(c.manifest_path(), format!("tests import {import}, which is not below it")));
        }
    }
    for name in house.map.rooms.keys().filter(|n| !house.is_own(n)) {
        breaches.push(Breach::new(MAP, format!("the table names {name}, there is no such crate")));
    }
    breaches
}

fn uphill(map: &Map) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for (name, room) in &map.rooms {
        for import in &room.imports {
            match map.rooms.get(import) {
                Some(below) if below.floor < room.floor => {}
                Some(_) => {
                    breaches.push(Breach::new(MAP, format!("{name} on floor {} imports {import}, which is not below it", room.floor)))
                }
                None => breaches.push(Breach::new(MAP, format!("{name} imports {import}, which has no row"))),
            }
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds() {
        super::super::hold(&LAW);
    }

    #[test]
    fn an_arrow_within_a_floor_is_a_breach() {
        let page = "| crate | floor | purpose | imports | third-party |\n|---|---|---|---|---|\n\
                    | kilter-a | 1 | x | none | none |\n| kilter-b | 1 | x | a | none |\n| kilter-c | 2 | x | a, d | none |\n";
        let found: Vec<String> = uphill(&Map::parse(page)).iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 2);
        assert!(found[0].contains("kilter-b on floor 1 imports kilter-a"));
        assert!(found[1].contains("kilter-d, which has no row"));
    }
}
