//! How fast the tables are filled and changed, and how much memory they take.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dns_agent::{
    datapath::{Config, Tables, grace::Rcu, object::Object, size},
    zone::{Model, ModelBuilder, Name, Rdata, Record},
};
use dns_common::{directory::Bucket, records::CHUNK};

/// The most that it may take until 100,000 names are answered.
pub(crate) const BAR: Duration = Duration::from_secs(2);

/// What was measured.
pub(crate) struct Tabled {
    /// Names in the tables, those between the records' and the zone's included.
    pub(crate) names: usize,
    /// From records to a model.
    pub(crate) model: Duration,
    /// Making the maps.
    pub(crate) maps: Duration,
    /// From the model to the tables.
    pub(crate) publish: Duration,
    /// Octets shared with the kernel: in the directory, in records.
    pub(crate) directory: usize,
    pub(crate) records: usize,
    /// Publishing a model in which every address is another.
    pub(crate) replace: Duration,
    /// How many records that replaced.
    pub(crate) replaced: usize,
    /// Publishing a model in which one address is another.
    pub(crate) replace_one: Duration,
}

impl Tabled {
    /// Until the kernel answers.
    pub(crate) fn load(&self) -> Duration {
        self.model + self.maps + self.publish
    }
}

/// Fills tables with names and changes them. Nothing reads them meanwhile.
pub(crate) fn measure(config: &Config, names: u32) -> Result<Tabled> {
    let records = records(names, 0)?;
    let (model, model_time) = timed(|| build(records))?;
    let size = size(&model, None);
    let ((object, mut tables), maps) = timed(|| {
        let object = Object::load(size)?;
        let tables = Tables::new(&object, size, config, Rcu::new()?)?;
        Ok((object, tables))
    })?;
    let (filled, publish) = timed(|| tables.publish(&model, &mut || {}))?;
    ensure!(
        filled.left_out == 0,
        "{} names have no room",
        filled.left_out
    );

    let others = build(self::records(names, 1 << 20)?)?;
    let (changed, replace) = timed(|| tables.publish(&others, &mut || {}))?;
    ensure!(
        changed.replaced >= names as usize,
        "only {} records were replaced",
        changed.replaced
    );
    let mut one = self::records(names, 1 << 20)?;
    one[0].data = Rdata::A([192, 0, 2, 1].into());
    let one = build(one)?;
    let (changed_one, replace_one) = timed(|| tables.publish(&one, &mut || {}))?;
    ensure!(
        changed_one.replaced == 1,
        "{} records were replaced instead of one",
        changed_one.replaced
    );
    // The maps go away with the last descriptor.
    drop((tables, object));
    Ok(Tabled {
        names: filled.inserted,
        model: model_time,
        maps,
        publish,
        directory: size.buckets as usize * size_of::<Bucket>(),
        records: size.chunks as usize * CHUNK,
        replace,
        replaced: changed.replaced,
        replace_one,
    })
}

fn build(records: Vec<Record>) -> Result<Model> {
    let mut builder = ModelBuilder::new(1);
    builder.add_zone(Name::parse("cluster.local")?, 5)?;
    builder.extend(records);
    Ok(builder.build())
}

/// An address for each of so many services in 200 namespaces.
fn records(names: u32, first: u32) -> Result<Vec<Record>> {
    (0..names)
        .map(|number| {
            let namespace = number % 200;
            let owner = format!("service-{number:06}.team-{namespace:03}.svc.cluster.local");
            Ok(Record {
                owner: Name::parse(&owner)?,
                ttl: 5,
                data: Rdata::A((0x0a00_0000 + first + number).into()),
            })
        })
        .collect()
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let start = Instant::now();
    let done = work()?;
    Ok((done, start.elapsed()))
}
