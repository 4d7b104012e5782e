//! Metrics of this process, with the names that the Prometheus client libraries give them.

use std::{fmt, fs, io};

use nix::sys::resource::{Resource, getrlimit};
use prometheus_client::registry::Unit;

use super::page::MetricsPage;

/// Clock ticks of a second in /proc on every Linux for x86-64 (USER_HZ).
const TICKS: f64 = 100.0;

/// What the kernel says about this process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ProcessReadings {
    cpu_seconds: f64,
    /// Unix time.
    start_seconds: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
    open_files: f64,
    max_files: f64,
}

impl ProcessReadings {
    /// # Errors
    /// When a file of /proc can't be read, or has another form than `proc(5)` says.
    pub(super) fn read() -> io::Result<ProcessReadings> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let memory = fs::read_to_string("/proc/self/status")?;
        let system = fs::read_to_string("/proc/stat")?;
        let (max_files, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
        // One of the files is the directory itself.
        let open_files = fs::read_dir("/proc/self/fd")?.count().saturating_sub(1);
        let parsed = Self::parse(&stat, &memory, &system);
        let readings = parsed.ok_or(io::ErrorKind::InvalidData)?;
        Ok(ProcessReadings {
            open_files: open_files as f64,
            max_files: max_files as f64,
            ..readings
        })
    }

    fn parse(stat: &str, memory: &str, system: &str) -> Option<ProcessReadings> {
        // The second field is the program's name in parentheses, which may contain spaces.
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        // The first of these is the third field: utime is field 14, stime 15, starttime 22.
        let ticks = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let kilobytes = |name: &str| {
            let value = memory.lines().find_map(|line| line.strip_prefix(name))?;
            value.trim().strip_suffix(" kB")?.parse::<f64>().ok()
        };
        let boot = system.lines().find_map(|line| line.strip_prefix("btime "));
        Some(ProcessReadings {
            cpu_seconds: (ticks(14)? + ticks(15)?) / TICKS,
            start_seconds: boot?.parse::<f64>().ok()? + ticks(22)? / TICKS,
            resident_bytes: kilobytes("VmRSS:")? * 1024.0,
            virtual_bytes: kilobytes("VmSize:")? * 1024.0,
            ..ProcessReadings::default()
        })
    }

    pub(super) fn write(&self, page: &mut MetricsPage<'_>) -> fmt::Result {
        page.write_counters(
            "process_cpu_seconds",
            "User and system CPU time of the agent in seconds",
            [(Vec::new(), self.cpu_seconds)],
        )?;
        for (name, unit, help, value) in [
            (
                "process_start_time",
                Some(Unit::Seconds),
                "Unix time of the agent's start",
                self.start_seconds,
            ),
            (
                "process_resident_memory",
                Some(Unit::Bytes),
                "Resident memory of the agent, with what it maps of the kernel's tables",
                self.resident_bytes,
            ),
            (
                "process_virtual_memory",
                Some(Unit::Bytes),
                "Virtual memory of the agent",
                self.virtual_bytes,
            ),
            (
                "process_open_fds",
                None,
                "Open files of the agent",
                self.open_files,
            ),
            (
                "process_max_fds",
                None,
                "Upper bound on the open files of the agent",
                self.max_files,
            ),
        ] {
            page.write_gauges(name, unit.as_ref(), help, [(Vec::new(), value)])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_a_name_with_spaces_and_parentheses() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4 1 0 0 0 150 50 0 0 20 0 9 0 250 999 88";
        let memory = "Name:\ta\nVmSize:\t    2048 kB\nVmRSS:\t  1024 kB\n";
        let readings = ProcessReadings::parse(stat, memory, "cpu 1\nbtime 1000\n").unwrap();
        assert_eq!(
            (readings.cpu_seconds, readings.start_seconds),
            (2.0, 1002.5)
        );
        assert_eq!(readings.resident_bytes, 1_048_576.0);
        assert_eq!(readings.virtual_bytes, 2_097_152.0);
    }

    #[test]
    fn this_process_can_be_read() {
        let readings = ProcessReadings::read().unwrap();
        assert!(readings.open_files >= 3.0 && readings.open_files <= readings.max_files);
        assert!(readings.resident_bytes > 0.0 && readings.start_seconds > 1e9);
    }
}
