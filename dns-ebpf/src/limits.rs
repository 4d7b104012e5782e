//! How often one client is answered on a network card: token buckets.

use dns_common::{
    Outcome,
    settings::{TOKEN, TOKEN_BUCKETS},
};

use crate::{
    Frame, Tables,
    clients::allows_all,
    query::{ETHERNET, IPV6, Query},
    verifier::{load, load_shared},
};

/// The golden ratio's fraction in 64 bits, odd: multiplying by it spreads neighbours.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Takes a token out of the client's bucket, or lets the query pass if there is none.
///
/// Clients share the buckets, and CPUs that look at one at the same time may take one token
/// together: it is a limit, not an account.
#[inline(always)]
pub(crate) fn take<F: Frame, T: Tables>(query: &Query<'_>, tables: &T) -> Result<(), Outcome> {
    let settings = query.settings;
    if settings.limit_burst == 0 || allows_all::<F>(settings) {
        return Ok(());
    }
    // A query is longer in any case. The verifier wants to see it all the same.
    if query.start + ETHERNET + IPV6 > query.end {
        return Ok(());
    }
    // One client is an IPv4 address, or an IPv6 network of 64 bits, of which a host may have all.
    // SAFETY: just checked.
    let client: u64 = unsafe {
        match query.is_ipv6() {
            true => load(query.start + 22),
            false => load::<u32>(query.start + 26).into(),
        }
    };
    let number = (client ^ settings.secret).wrapping_mul(SPREAD) >> 48;
    let Some(bucket) = tables.tokens(number as u32 % TOKEN_BUCKETS) else {
        return Ok(());
    };
    // SAFETY: an element of the table, which is a word.
    let state = unsafe { load_shared(bucket as usize) };
    let now = tables.now() as u32;
    let passed = u64::from(now.wrapping_sub((state >> 32) as u32));
    let filled = (state & 0xffff_ffff) + passed * u64::from(settings.limit_refill);
    let burst = u64::from(settings.limit_burst);
    // One that was never used is full.
    let level = if state == 0 || filled > burst {
        burst
    } else {
        filled
    };
    if level < TOKEN {
        return Err(Outcome::OverLimit);
    }
    // SAFETY: as above; the word is stored whole.
    unsafe { bucket.write_volatile(u64::from(now) << 32 | (level - TOKEN)) };
    Ok(())
}
