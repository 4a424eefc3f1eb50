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

/* A change of sealed text: nr instructions, or ranges to grant or release. Or nr bytes of a kernel. */
TRACE_EVENT(kvm_heki_patch,
	TP_PROTO(unsigned int vcpu_id, u64 rip, u32 op, u32 nr, const char *why, u32 why_len,
		 long ret),
	TP_ARGS(vcpu_id, rip, op, nr, why, why_len, ret),

	TP_STRUCT__entry(
		__field(unsigned int, vcpu_id)
		__field(u64, rip)
		__field(u32, op)
		__field(u32, nr)
		__string_len(why, why, why_len)
		__field(long, ret)
	),

	TP_fast_assign(
		__entry->vcpu_id = vcpu_id;
		__entry->rip = rip;
		__entry->op = op;
		__entry->nr = nr;
		__assign_str(why);
		__entry->ret = ret;
	),

	TP_printk("vcpu %u rip 0x%llx %s %u %s ret %ld", __entry->vcpu_id, __entry->rip,
		  __print_symbolic(__entry->op,
				   { HEKI_OP_PATCH, "patch" },
				   { HEKI_OP_GRANT, "grant" },
				   { HEKI_OP_RELEASE, "release" },
				   { HEKI_OP_KEXEC, "kexec" }),
		  __entry->nr, __get_str(why), __entry->ret)
);

TRACE_EVENT(kvm_heki_deny,
	TP_PROTO(unsigned int vcpu_id, u64 rip, u32 access, u64 gfn, u64 va, u32 reg, u32 index,
		 u64 bits, u32 reason, bool learned),
	TP_ARGS(vcpu_id, rip, access, gfn, va, reg, index, bits, reason, learned),

	TP_STRUCT__entry(
		__field(unsigned int, vcpu_id)
		__field(u64, rip)
		__field(u32, access)
		__field(u64, gfn)
		__field(u64, va)
		__field(u32, reg)
		__field(u32, index)
		__field(u64, bits)
		__field(u32, reason)
		__field(bool, learned)
	),

	TP_fast_assign(
		__entry->vcpu_id = vcpu_id;
		__entry->rip = rip;
		__entry->access = access;
		__entry->gfn = gfn;
		__entry->va = va;
		__entry->reg = reg;
		__entry->index = index;
		__entry->bits = bits;
		__entry->reason = reason;
		__entry->learned = learned;
	),

	/*
	 * va is that of access patch, gfn of the others; access 0 has reg, index and bits instead.
	 * What is learned only would have been denied.
	 */
	TP_printk("vcpu %u rip 0x%llx access %s gfn 0x%llx va 0x%llx %s index 0x%x bits 0x%llx reason %s%s",
		  __entry->vcpu_id, __entry->rip,
		  __print_flags(__entry->access, "|",
				{ KVM_HEKI_ACCESS_WRITE, "write" },
				{ KVM_HEKI_ACCESS_FETCH, "fetch" },
				{ KVM_HEKI_ACCESS_WALK, "walk" },
				{ KVM_HEKI_ACCESS_PATCH, "patch" }),
		  __entry->gfn, __entry->va,
		  __print_symbolic(__entry->reg,
				   { HEKI_REG_CR0, "cr0" },
				   { HEKI_REG_CR4, "cr4" },
				   { HEKI_REG_XCR0, "xcr0" },
				   { HEKI_REG_MSR, "msr" },
				   { HEKI_REG_IDTR, "idtr" },
				   { HEKI_REG_GDTR, "gdtr" },
				   { HEKI_REG_LDTR, "ldtr" },
				   { HEKI_REG_TR, "tr" }),
		  __entry->index, __entry->bits,
		  __print_symbolic(__entry->reason,
				   { KVM_HEKI_REASON_SEALED, "sealed" },
				   { KVM_HEKI_REASON_NOT_EXECUTABLE, "not_executable" },
				   { KVM_HEKI_REASON_PAGE_WALK, "page_walk" },
				   { KVM_HEKI_REASON_PINNED, "pinned" },
				   { KVM_HEKI_REASON_UNLISTED, "unlisted" },
				   { KVM_HEKI_REASON_FROZEN, "frozen" },
				   { KVM_HEKI_REASON_FORM, "form" },
				   { KVM_HEKI_REASON_TARGET, "target" },
				   { KVM_HEKI_REASON_STALE, "stale" },
				   { KVM_HEKI_REASON_CONTENT, "content" },
				   { KVM_HEKI_REASON_KVM_WRITER, "kvm_writer" }),
		  __entry->learned ? " learned" : "")
);

#endif /* _TRACE_KVM_HEKI_H */

#include <trace/define_trace.h>
