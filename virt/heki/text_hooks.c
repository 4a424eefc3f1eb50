// SPDX-License-Identifier: GPL-2.0
/*
 * The built-in part of heki_guest: the hooks where the kernel changes its text,
 * which do nothing until that module installs its own, and what the host must
 * know of the kernel's text. No decision is made here.
 *
 * The key of the hooks is exported to nobody: a module that could change it
 * could take the kernel's text back from the host's checks, to its own harm.
 *
 * Neighbours: linux/guest_text.h has the hooks, text_hooks.h the rest.
 * Locks: cpus_read_lock, then text_mutex, for others; none inside.
 */
#include <linux/build_bug.h>
#include <linux/cpu.h>
#include <linux/export.h>
#include <linux/ftrace.h>
#include <linux/guest_text.h>
#include <linux/jump_label.h>
#include <linux/kallsyms.h>
#include <linux/kprobes.h>
#include <linux/memory.h>
#include <linux/perf_event.h>
#include <linux/rcupdate.h>
#include <linux/static_call.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include <asm/bug.h>
#include <asm/cfi.h>
#include <asm/cpufeature.h>
#include <asm/desc_defs.h>
#include <asm/ibt.h>
#include <asm/insn.h>
#include <asm/insn-eval.h>
#include <asm/nospec-branch.h>
#include <asm/sections.h>
#include <asm/text-patching.h>

#include "text_hooks.h"

/* One call, not one for each hook: to install it is to change text, each place apart. */
DEFINE_STATIC_CALL_RET0(guest_text_get_ops, guest_text_ops);

const struct guest_text_ops *guest_text_ops(void)
{
	return static_call(guest_text_get_ops)();
}

void heki_text_install(const struct guest_text_ops *(*get_ops)(void))
{
	static_call_update(guest_text_get_ops, get_ops);
}
EXPORT_SYMBOL_FOR_MODULES(heki_text_install, "heki_guest");

void heki_text_remove(void)
{
	heki_text_install((void *)__static_call_return0);
}
EXPORT_SYMBOL_FOR_MODULES(heki_text_remove, "heki_guest");

void heki_text_lock(void)
{
	/* A CPU on its way up has a GDT to load yet. */
	cpus_read_lock();
	mutex_lock(&text_mutex);
}
EXPORT_SYMBOL_FOR_MODULES(heki_text_lock, "heki_guest");

void heki_text_unlock(void)
{
	mutex_unlock(&text_mutex);
	cpus_read_unlock();
}
EXPORT_SYMBOL_FOR_MODULES(heki_text_unlock, "heki_guest");

/* Without declarations of their own. */
extern struct static_call_site __start_static_call_sites[], __stop_static_call_sites[];
extern char __static_call_text_start[], __static_call_text_end[];
void __static_call_return(void);
#ifdef CONFIG_PARAVIRT_SPINLOCKS
void __raw_callee_save___native_queued_spin_unlock(struct qspinlock *lock);
#endif
#ifdef CONFIG_DYNAMIC_FTRACE
void ftrace_caller_end(void);
void ftrace_caller_op_ptr(void);
void ftrace_regs_caller_end(void);
void ftrace_regs_caller_op_ptr(void);
void ftrace_regs_caller_jmp(void);
#endif

static void add(struct heki_area **next, u32 kind, const void *start, const void *end)
{
	*(*next)++ = (struct heki_area) {
		.kind = kind,
		.va = (unsigned long)start,
		.len = end - start,
	};
}

static void add_point(struct heki_area **next, u32 kind, const void *at)
{
	add(next, kind, at, at);
}

static void add_static_calls(struct heki_area **next)
{
	add(next, HEKI_AREA_STATIC_CALL_SITES, __start_static_call_sites, __stop_static_call_sites);
	add(next, HEKI_AREA_STATIC_CALL_TEXT, __static_call_text_start, __static_call_text_end);
	add_point(next, HEKI_AREA_STATIC_RETURN, __static_call_return);
	add_point(next, HEKI_AREA_STATIC_RETURN0, __static_call_return0);
	add_point(next, HEKI_AREA_WARN_TRAP, __WARN_trap);
#ifdef CONFIG_PARAVIRT_SPINLOCKS
	add_point(next, HEKI_AREA_SPIN_UNLOCK, __raw_callee_save___native_queued_spin_unlock);
#endif
	if (cpu_wants_rethunk())
		add_point(next, HEKI_AREA_RETURN_THUNK, x86_return_thunk);
#ifdef CONFIG_MITIGATION_ITS
	if (cpu_feature_enabled(X86_FEATURE_INDIRECT_THUNK_ITS))
		add_point(next, HEKI_AREA_ITS, __x86_indirect_its_thunk_array);
#endif
}

static void add_ftrace(struct heki_area **next)
{
#ifdef CONFIG_DYNAMIC_FTRACE
	add(next, HEKI_AREA_FTRACE_CALLER, ftrace_caller, ftrace_caller_end);
	add_point(next, HEKI_AREA_FTRACE_CALL, ftrace_call);
	add_point(next, HEKI_AREA_FTRACE_OP_PTR, ftrace_caller_op_ptr);
	add(next, HEKI_AREA_FTRACE_REGS_CALLER, ftrace_regs_caller, ftrace_regs_caller_end);
	add_point(next, HEKI_AREA_FTRACE_REGS_CALL, ftrace_regs_call);
	add_point(next, HEKI_AREA_FTRACE_REGS_OP_PTR, ftrace_regs_caller_op_ptr);
	add_point(next, HEKI_AREA_FTRACE_REGS_JMP, ftrace_regs_caller_jmp);
	add_point(next, HEKI_AREA_FTRACE_STUB, ftrace_stub);
	/* Only called directly, so that it may have neither ENDBR64 nor a hash. */
	add_point(next, HEKI_AREA_FTRACE_LIST, arch_ftrace_ops_list_func);
#endif
}

/* Whoever changed the call would take the text back from the host. */
static void add_hooks(struct heki_area **next)
{
	add_point(next, HEKI_AREA_FROZEN, &STATIC_CALL_KEY(guest_text_get_ops));
	add_point(next, HEKI_AREA_FROZEN, STATIC_CALL_TRAMP_ADDR(guest_text_get_ops));
}

/*
 * What tells a function from its middle. The hash stands in an instruction
 * before the function: that of kCFI has a one-byte opcode, that of FineIBT
 * comes after an ENDBR64 and one byte. FineIBT moves the ENDBR64 of a function
 * there as well; otherwise each function whose address is used begins with it,
 * on any CPU.
 */
static void add_targets(struct heki_area **next)
{
	switch (cfi_mode) {
	case CFI_KCFI:
		add_point(next, HEKI_AREA_CFI_HASH, (void *)(CFI_OFFSET - 1UL));
		break;
	case CFI_FINEIBT:
		add_point(next, HEKI_AREA_CFI_HASH, (void *)(16UL - ENDBR_INSN_SIZE - 1));
		return;
	default:
		break;
	}
	if (IS_ENABLED(CONFIG_X86_KERNEL_IBT))
		add_point(next, HEKI_AREA_ENDBR, NULL);
}

#ifdef CONFIG_MITIGATION_CALL_DEPTH_TRACKING
extern u8 skl_call_thunk_template[], skl_call_thunk_tail[];

/* Bytes of the pads in front of functions, zero if there are none. */
static size_t pad_len(void)
{
	if (!cpu_feature_enabled(X86_FEATURE_CALL_DEPTH))
		return 0;
	return skl_call_thunk_tail - skl_call_thunk_template;
}

static void add_pads(struct heki_area **next)
{
	if (pad_len())
		add(next, HEKI_AREA_CALL_DEPTH, skl_call_thunk_template, skl_call_thunk_tail);
}
#else
static size_t pad_len(void)
{
	return 0;
}

static void add_pads(struct heki_area **next) { }
#endif

unsigned int heki_text_areas(struct heki_area *areas)
{
	struct heki_area *next = areas;

	add(&next, HEKI_AREA_IMAGE, _text, _end);
	add(&next, HEKI_AREA_JUMP_TABLE, __start___jump_table, __stop___jump_table);
	add(&next, HEKI_AREA_RO_AFTER_INIT, __start_ro_after_init, __end_ro_after_init);
	add_static_calls(&next);
	add_hooks(&next);
	add_ftrace(&next);
	add_targets(&next);
	add_pads(&next);
	return next - areas;
}
EXPORT_SYMBOL_FOR_MODULES(heki_text_areas, "heki_guest");

void heki_text_site(struct heki_site *site, const void *addr, const void *new,
		    size_t len)
{
	*site = (struct heki_site) {
		.va = (unsigned long)addr,
		.len = len,
	};
	memcpy(site->old, addr, len);
	memcpy(site->new, new, len);
}
EXPORT_SYMBOL_FOR_MODULES(heki_text_site, "heki_guest");

bool heki_text_poke(struct heki_site *site, const void *addr, const void *new,
		    size_t len)
{
	u8 slot[HEKI_SLOT_BYTES];

	static_assert(sizeof(slot) == MAX_INSN_SIZE && sizeof(slot) <= sizeof(site->new));
	if (!is_kprobe_insn_slot((unsigned long)addr)) {
		if (!len || (len > HEKI_MAX_INSN && len != pad_len()) || len > sizeof(site->new))
			return false;
		heki_text_site(site, addr, new, len);
		return true;
	}
	if (!len || len > sizeof(slot))
		return false;
	memcpy(slot, new, len);
	memset(slot + len, INT3_INSN_OPCODE, sizeof(slot) - len);
	heki_text_site(site, addr, slot, sizeof(slot));
	return true;
}
EXPORT_SYMBOL_FOR_MODULES(heki_text_poke, "heki_guest");

/* The first byte of an instruction of six is always the same and left out. */
static const u8 *new_bytes(const struct smp_text_poke_loc *loc, u8 *room)
{
	if (loc->len <= TEXT_POKE_MAX_OPCODE_SIZE)
		return loc->text;
	room[0] = 0x0f;
	memcpy(room + 1, loc->text, TEXT_POKE_MAX_OPCODE_SIZE);
	return room;
}

void heki_text_sites(struct heki_site *sites, const struct smp_text_poke_loc *vec,
		     unsigned int nr)
{
	u8 room[TEXT_POKE_MAX_OPCODE_SIZE + 1];

	static_assert(PAGE_SIZE / sizeof(*vec) <= HEKI_MAX_PATCHES);
	for (unsigned int i = 0; i < nr; i++)
		heki_text_site(&sites[i], _stext + vec[i].rel_addr,
			       new_bytes(&vec[i], room), vec[i].len);
}
EXPORT_SYMBOL_FOR_MODULES(heki_text_sites, "heki_guest");

void heki_text_changed(const struct heki_site *sites, unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++)
		perf_event_text_poke((void *)sites[i].va, sites[i].old, sites[i].len,
				     sites[i].new, sites[i].len);
}
EXPORT_SYMBOL_FOR_MODULES(heki_text_changed, "heki_guest");

bool heki_text_traced(void)
{
#ifdef CONFIG_DYNAMIC_FTRACE
	return rcu_access_pointer(ftrace_ops_list) != &ftrace_list_end;
#else
	return false;
#endif
}
EXPORT_SYMBOL_FOR_MODULES(heki_text_traced, "heki_guest");

/* Such a probe has its instruction copied to a page, which has a name. */
bool heki_text_probed(void)
{
	char name[KSYM_NAME_LEN], type;
	unsigned long page;

	return !kprobe_get_kallsym(0, &page, &type, name);
}
EXPORT_SYMBOL_FOR_MODULES(heki_text_probed, "heki_guest");

void heki_text_stop_ftrace(void)
{
	ftrace_kill();
}
EXPORT_SYMBOL_FOR_MODULES(heki_text_stop_ftrace, "heki_guest");

void heki_text_untrace(struct module *mod)
{
	ftrace_release_mod(mod);
}
EXPORT_SYMBOL_FOR_MODULES(heki_text_untrace, "heki_guest");

static bool moves_string(const struct insn *insn)
{
	u8 opcode = insn->opcode.bytes[0];

	return insn->opcode.nbytes == 1 &&
	       (opcode == 0xa4 || opcode == 0xa5 || opcode == 0xaa || opcode == 0xab);
}

/* MOV to CR0 or CR4. */
static bool loads_cr(const struct insn *insn)
{
	u8 reg = X86_MODRM_REG(insn->modrm.value);

	return insn->opcode.bytes[0] == 0x0f && insn->opcode.bytes[1] == 0x22 &&
	       !X86_REX_R(insn->rex_prefix.value) && (reg == 0 || reg == 4);
}

/* WRMSR, WRMSRNS and XSETBV load EDX:EAX. */
static bool loads_msr(const struct insn *insn, struct heki_fault *fault, struct pt_regs *regs)
{
	const insn_byte_t *opcode = insn->opcode.bytes;
	bool group7 = opcode[0] == 0x0f && opcode[1] == 0x01;
	bool xsetbv = group7 && insn->modrm.value == 0xd1;
	bool wrmsrns = group7 && insn->modrm.value == 0xc6;

	if (!xsetbv && !wrmsrns && (opcode[0] != 0x0f || opcode[1] != 0x30))
		return false;
	fault->kind = HEKI_FAULT_LOAD;
	fault->reg = xsetbv ? HEKI_REG_XCR0 : HEKI_REG_MSR;
	fault->index = regs->cx;
	fault->value = regs->dx << 32 | (u32)regs->ax;
	return true;
}

/* The selector of LLDT or LTR, base and limit of LGDT or LIDT. */
static bool read_operand(struct insn *insn, void *operand, size_t len, struct pt_regs *regs)
{
	int offset;

	if (X86_MODRM_MOD(insn->modrm.value) != 3)
		return !copy_from_kernel_nofault(operand, insn_get_addr_ref(insn, regs), len);
	offset = insn_get_modrm_rm_off(insn, regs);
	if (offset < 0 || len > sizeof(regs->ax))
		return false;
	memcpy(operand, (void *)regs + offset, len);
	return true;
}

static bool loads_table(struct insn *insn, struct heki_fault *fault, struct pt_regs *regs)
{
	static const u32 tables[2][2] = {
		{ HEKI_REG_LDTR, HEKI_REG_TR },
		{ HEKI_REG_GDTR, HEKI_REG_IDTR },
	};
	const insn_byte_t *opcode = insn->opcode.bytes;
	u8 reg = X86_MODRM_REG(insn->modrm.value);
	struct desc_ptr dt = {};
	u16 selector = 0;

	if (opcode[0] != 0x0f || opcode[1] > 1 || (reg != 2 && reg != 3))
		return false;
	if (opcode[1] ? !read_operand(insn, &dt, sizeof(dt), regs) :
			!read_operand(insn, &selector, sizeof(selector), regs))
		return false;
	fault->kind = HEKI_FAULT_LOAD;
	fault->reg = tables[opcode[1]][reg - 2];
	fault->value = opcode[1] ? dt.address : selector;
	fault->limit = dt.size;
	return true;
}

void heki_text_fault(struct heki_fault *fault, struct pt_regs *regs)
{
	u8 bytes[MAX_INSN_SIZE];
	struct insn insn;
	int offset;

	*fault = (struct heki_fault) { .ip = regs->ip };
	if (copy_from_kernel_nofault(bytes, (void *)regs->ip, sizeof(bytes)) ||
	    insn_decode_kernel(&insn, bytes))
		return;
	if (moves_string(&insn)) {
		fault->kind = HEKI_FAULT_MEMORY;
		fault->value = regs->di;
	} else if (loads_cr(&insn)) {
		offset = insn_get_modrm_rm_off(&insn, regs);
		if (offset < 0)
			return;
		fault->kind = HEKI_FAULT_CR;
		fault->reg = X86_MODRM_REG(insn.modrm.value);
		fault->value = *(unsigned long *)((void *)regs + offset);
	} else if (!loads_msr(&insn, fault, regs) && !loads_table(&insn, fault, regs)) {
		fault->value = (u64)insn_get_addr_ref(&insn, regs);
		if (fault->value != -1UL)
			fault->kind = HEKI_FAULT_MEMORY;
	}
}
EXPORT_SYMBOL_FOR_MODULES(heki_text_fault, "heki_guest");
