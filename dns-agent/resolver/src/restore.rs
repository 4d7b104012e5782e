//! Gives a client the answer about another name than it has asked for, because a route has
//! rewritten the name.

use domain::base::{Header, iana::Rcode};
use zerohop_zone::{Name, Rdata, Record, Rtype, Sections, render_sections};

use super::{
    query::{ClientQuestion, HEADER_LEN},
    records::Records,
};

impl ClientQuestion {
    /// The header and the sections of the reply to the client, from the reply to the rewritten
    /// query. `None` if that is shorter than a header.
    pub(super) fn restore(&self, message: &[u8]) -> Option<(Header, Sections)> {
        let mut header = *Header::for_message_slice(message.get(..HEADER_LEN)?);
        let records = Records::read(message).map(|records| records.sections);
        let mut sections = records.unwrap_or_else(|| {
            header.set_rcode(Rcode::SERVFAIL);
            Default::default()
        });
        for record in sections.iter_mut().flatten() {
            self.restore_record(record);
        }
        let [answer, authority, additional] = &sections;
        let sections = render_sections(&self.name, [answer, authority, additional], 0);
        Some((header, sections))
    }

    /// Replaces the names in a record: its owner, and those that CoreDNS replaces too
    /// (`plugin/rewrite/reverter.go`), except for NAPTR.
    fn restore_record(&self, record: &mut Record) {
        record.owner = self.rewriting.restore(&record.owner);
        let restore = |name: &mut Name| *name = self.rewriting.restore(name);
        match &mut record.data {
            Rdata::Cname(name) | Rdata::Ns(name) | Rdata::Ptr(name) => restore(name),
            Rdata::Soa(soa) => restore(&mut soa.mname),
            Rdata::Srv(srv) => restore(&mut srv.target),
            Rdata::Opaque(rtype, data) => {
                if let Some(at) = offset_of_name(*rtype)
                    && let Some((before, rest)) = data.split_at_checked(at)
                    && let Some(name) = Name::from_wire_prefix(rest)
                {
                    let after = &rest[name.wire().len()..];
                    let restored = self.rewriting.restore(&name);
                    *data = [before, restored.wire(), after].concat().into();
                }
            }
            Rdata::A(_) | Rdata::Aaaa(_) | Rdata::Txt(_) => {}
        }
    }
}

/// Where the data of a record type has the name that is restored, in bytes.
fn offset_of_name(rtype: Rtype) -> Option<usize> {
    match rtype {
        Rtype::DNAME | Rtype::NS | Rtype::PTR | Rtype::SOA => Some(0),
        Rtype::MX => Some(2),
        Rtype::SRV => Some(6),
        _ => None,
    }
}
