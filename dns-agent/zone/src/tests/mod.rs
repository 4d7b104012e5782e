//! Tests of models built from records, and of rendered answers.

mod answers;
pub(crate) mod rendering;
mod unions;

use super::{Model, ModelBuilder, Name, Rdata, Record};

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn record(owner: &str, data: Rdata) -> Record {
    let owner = name(owner);
    let ttl = 5;
    Record { owner, ttl, data }
}

/// A model of the zone `z` that has these records.
fn model(records: impl IntoIterator<Item = Record>) -> Model {
    let mut builder = ModelBuilder::new(7);
    builder.add_zone(name("z"), 5).unwrap();
    builder.extend(records);
    builder.build()
}
