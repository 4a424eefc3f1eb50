/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints of Heki in the host: what a guest asked and what it was denied.
 * Emitted by arch/x86/kvm/heki.c for virt/kvm/heki/verdict.rs.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM kvm_heki

#if !defined(_TRACE_KVM_HEKI_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_KVM_HEKI_H

#include <linux/kvm_heki.h>
#include <linux/tracepoint.h>

TRACE_EVENT(kvm_heki_query,
	TP_PROTO(unsigned int vcpu_id, u64 rip, long ret),
	TP_ARGS(vcpu_id, rip, ret),

	TP_STRUCT__entry(
		__field(unsigned int, vcpu_id)
		__field(u64, rip)
		__field(long, ret)
	),

	TP_fast_assign(
		__entry->vcpu_id = vcpu_id;
		__entry->rip = rip;
		__entry->ret = ret;
	),

	TP_printk("vcpu %u rip 0x%llx ret %ld", __entry->vcpu_id, __entry->rip, __entry->ret)
);

TRACE_EVENT(kvm_heki_seal,
	TP_PROTO(unsigned int vcpu_id, u64 rip, u32 nr_ranges, u32 nr_pins, u32 flags,
		 const char *why, u32 why_len, long ret),
	TP_ARGS(vcpu_id, rip, nr_ranges, nr_pins, flags, why, why_len, ret),

	TP_STRUCT__entry(
		__field(unsigned int, vcpu_id)
		__field(u64, rip)
		__field(u32, nr_ranges)
		__field(u32, nr_pins)
		__field(u32, flags)
		__string_len(why, why, why_len)
		__field(long, ret)
	),

	TP_fast_assign(
		__entry->vcpu_id = vcpu_id;
		__entry->rip = rip;
		__entry->nr_ranges = nr_ranges;
		__entry->nr_pins = nr_pins;
		__entry->flags = flags;
		__assign_str(why);
		__entry->ret = ret;
	),

	TP_printk("vcpu %u rip 0x%llx ranges %u pins %u flags 0x%x %s ret %ld",
		  __entry->vcpu_id, __entry->rip, __entry->nr_ranges, __entry->nr_pins,
		  __entry->flags, __get_str(why), __entry->ret)
);

TRACE_EVENT(kvm_heki_deny,
	TP_PROTO(unsigned int vcpu_id, u64 rip, u32 access, u64 gfn, u32 reg, u64 bits,
		 u32 reason),
	TP_ARGS(vcpu_id, rip, access, gfn, reg, bits, reason),

	TP_STRUCT__entry(
		__field(unsigned int, vcpu_id)
		__field(u64, rip)
		__field(u32, access)
		__field(u64, gfn)
		__field(u32, reg)
		__field(u64, bits)
		__field(u32, reason)
	),

	TP_fast_assign(
		__entry->vcpu_id = vcpu_id;
		__entry->rip = rip;
		__entry->access = access;
		__entry->gfn = gfn;
		__entry->reg = reg;
		__entry->bits = bits;
		__entry->reason = reason;
	),

	/* access is 0 for a register: then gfn says nothing, else reg and bits do not. */
	TP_printk("vcpu %u rip 0x%llx access %s gfn 0x%llx cr%u bits 0x%llx reason %s",
		  __entry->vcpu_id, __entry->rip,
		  __print_flags(__entry->access, "|",
				{ KVM_HEKI_ACCESS_WRITE, "write" },
				{ KVM_HEKI_ACCESS_FETCH, "fetch" },
				{ KVM_HEKI_ACCESS_WALK, "walk" }),
		  __entry->gfn, __entry->reg, __entry->bits,
		  __print_symbolic(__entry->reason,
				   { KVM_HEKI_REASON_SEALED, "sealed" },
				   { KVM_HEKI_REASON_NOT_EXECUTABLE, "not_executable" },
				   { KVM_HEKI_REASON_PAGE_WALK, "page_walk" },
				   { KVM_HEKI_REASON_PINNED, "pinned" }))
);

#endif /* _TRACE_KVM_HEKI_H */

#include <trace/define_trace.h>
