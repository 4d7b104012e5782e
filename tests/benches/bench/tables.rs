//! Measures how fast the tables are filled and changed, and their memory.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dns_common::{directory::Bucket, records::CHUNK};
use zerohop_datapath::{DatapathConfig, KernelTables, grace::Rcu, program::EbpfObject, table_size};
use zerohop_zone::{Model, ModelBuilder, Name, Rdata, Record};

/// The longest time to load 100,000 names.
pub(crate) const LOAD_LIMIT: Duration = Duration::from_secs(2);

/// Times and sizes of the tables.
pub(crate) struct TableMeasurement {
    /// Number of names in the tables, empty non-terminals included.
    pub(crate) names: usize,
    /// Time from the records to the model.
    pub(crate) model: Duration,
    /// Time to create the maps.
    pub(crate) maps: Duration,
    /// Time from the model to the filled tables.
    pub(crate) publish: Duration,
    /// Size of the directory in bytes.
    pub(crate) directory: usize,
    /// Size of the records map in bytes.
    pub(crate) records: usize,
    /// Time to publish a model with other addresses for all names.
    pub(crate) replace: Duration,
    /// Number of records that were replaced then.
    pub(crate) replaced: usize,
    /// Time to publish a model with another address for one name.
    pub(crate) replace_one: Duration,
}

impl TableMeasurement {
    /// Time from the records to the filled tables.
    pub(crate) fn load(&self) -> Duration {
        self.model + self.maps + self.publish
    }
}

/// Fills tables with the names of `names` Services, and changes them. No program reads them at the
/// same time.
pub(crate) fn measure(config: &DatapathConfig, names: u32) -> Result<TableMeasurement> {
    let records = records(names, 0)?;
    let (model, model_time) = timed(|| build(records))?;
    // No capacity is configured, so the tables have the agent's default size.
    let size = table_size(&model, None);
    let ((_object, mut tables), maps) = timed(|| {
        let object = EbpfObject::load(dns_agent::KERNEL_OBJECT, size)?;
        let tables = KernelTables::new(&object, size, config, Rcu::new()?)?;
        Ok((object, tables))
    })?;
    let (filled, publish) = timed(|| tables.publish_all(&model, &mut || {}))?;
    ensure!(
        filled.left_out == 0,
        "{} names do not fit into the tables",
        filled.left_out
    );

    // 1 << 20 is more than the number of Services, so every address changes.
    let others = build(self::records(names, 1 << 20)?)?;
    let (changed, replace) = timed(|| tables.publish_all(&others, &mut || {}))?;
    ensure!(
        changed.replaced >= names as usize,
        "only {} of {names} records were replaced",
        changed.replaced
    );
    let mut one = self::records(names, 1 << 20)?;
    one[0].data = Rdata::A([192, 0, 2, 1].into());
    let one = build(one)?;
    let (changed_one, replace_one) = timed(|| tables.publish_all(&one, &mut || {}))?;
    ensure!(
        changed_one.replaced == 1,
        "{} records were replaced instead of one",
        changed_one.replaced
    );
    Ok(TableMeasurement {
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

/// One A record for each of `names` Services in 200 namespaces. The addresses are consecutive, from
/// the one at index `first` in 10.0.0.0/8.
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
