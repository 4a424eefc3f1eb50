// SPDX-License-Identifier: GPL-2.0
/*
 * The tools of an attacker in the kernel: page-table entries edited by hand,
 * writes, register loads and calls that survive a denial, and requests to the
 * host.
 *
 * A denied write or register load is caught by the exception table. A denied
 * fetch raises #GP with RIP at the target, which no table can know: a die
 * notifier turns it into a return to the caller.
 *
 * Neighbours: main.c. Locks: none, one attack at a time.
 */
#include <linux/io.h>
#include <linux/kdebug.h>
#include <linux/kvm_para.h>
#include <linux/notifier.h>
#include <linux/pgtable.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/string.h>

#include <asm/asm.h>
#include <asm/nospec-branch.h>
#include <asm/special_insns.h>
#include <asm/trapnr.h>

#include <uapi/linux/heki.h>

#include "heki_attack.h"

#define PAYLOAD_RAN	0x600dc0deU
#define PAYLOAD_DENIED	0x0badc0deU

/* endbr64; mov $PAYLOAD_RAN, %eax; ret */
static const u8 payload[PAYLOAD_BYTES] = {
	0xf3, 0x0f, 0x1e, 0xfa, 0xb8, 0xde, 0xc0, 0x0d, 0x60, 0xc3,
};

/* The call in flight: whose #GP, where, and which exception it was. */
static struct task_struct *armed_task;
static unsigned long armed_ip;
static int armed_trap;

bool leaf_find(struct leaf *leaf, unsigned long addr)
{
	pte_t *pte = lookup_address(addr, &leaf->level);

	if (!pte || !(pte_flags(*pte) & _PAGE_PRESENT))
		return false;
	leaf->entry = (u64 *)pte;
	leaf->old = READ_ONCE(*leaf->entry);
	leaf->addr = addr;
	return true;
}

unsigned long leaf_size(const struct leaf *leaf)
{
	return page_level_size(leaf->level);
}

/* Takes effect on this CPU; the caller stays on it. */
void leaf_edit(const struct leaf *leaf, u64 set, u64 clear)
{
	WRITE_ONCE(*leaf->entry, (leaf->old | set) & ~clear);
	flush_here(leaf->addr);
}

void leaf_restore(const struct leaf *leaf)
{
	WRITE_ONCE(*leaf->entry, leaf->old);
	flush_here(leaf->addr);
}

void flush_here(unsigned long addr)
{
	asm volatile("invlpg (%0)" : : "r" (addr) : "memory");
}

/* A change of CR4.PGE drops every translation, of every address space. */
static void flush_cpu(void *unused)
{
	unsigned long cr4 = native_read_cr4();

	asm volatile("mov %0, %%cr4" : : "r" (cr4 ^ X86_CR4_PGE) : "memory");
	asm volatile("mov %0, %%cr4" : : "r" (cr4) : "memory");
}

void flush_everywhere(void)
{
	on_each_cpu(flush_cpu, NULL, 1);
}

/* Returns the exception, 0 if there was none. */
int try_write(u8 *addr, u8 value)
{
	int trap = 0;

	asm volatile("1: movb %[value], %[mem]\n"
		     "2:\n"
		     _ASM_EXTABLE_FAULT(1b, 2b)
		     : "+a" (trap), [mem] "+m" (*addr)
		     : [value] "q" (value)
		     : "memory");
	return trap;
}

int try_write_cr0(unsigned long value)
{
	int trap = 0;

	asm volatile("1: mov %[value], %%cr0\n"
		     "2:\n"
		     _ASM_EXTABLE_FAULT(1b, 2b)
		     : "+a" (trap) : [value] "r" (value) : "memory");
	return trap;
}

int try_write_cr4(unsigned long value)
{
	int trap = 0;

	asm volatile("1: mov %[value], %%cr4\n"
		     "2:\n"
		     _ASM_EXTABLE_FAULT(1b, 2b)
		     : "+a" (trap) : [value] "r" (value) : "memory");
	return trap;
}

/* AX holds half of the value, and after a fault the exception. */
#define TRY_WRITE(insn, index, value)						\
({										\
	int _trap = 0;								\
										\
	asm volatile("1: " insn "\n\t"						\
		     "xor %%eax, %%eax\n"					\
		     "2:\n"							\
		     _ASM_EXTABLE_FAULT(1b, 2b)					\
		     : "=a" (_trap)						\
		     : "c" (index), "0" ((u32)(value)), "d" ((u32)((value) >> 32)) \
		     : "memory");						\
	_trap;									\
})

int try_write_msr(u32 index, u64 value)
{
	return TRY_WRITE("wrmsr", index, value);
}

int try_write_xcr0(u64 value)
{
	return TRY_WRITE("xsetbv", 0, value);
}

#define TRY_LOAD(insn, value)						\
({									\
	int _trap = 0;							\
									\
	asm volatile("1: " insn " %[mem]\n"				\
		     "2:\n"						\
		     _ASM_EXTABLE_FAULT(1b, 2b)				\
		     : "+a" (_trap) : [mem] "m" (value) : "memory");	\
	_trap;								\
})

int try_load_idt(const struct desc_ptr *idt)
{
	return TRY_LOAD("lidt", *idt);
}

int try_load_gdt(const struct desc_ptr *gdt)
{
	return TRY_LOAD("lgdt", *gdt);
}

int try_load_ldt(u16 selector)
{
	return TRY_LOAD("lldt", selector);
}

int try_load_tr(u16 selector)
{
	return TRY_LOAD("ltr", selector);
}

/* Calls a copy of the payload. Returns the exception, 0 if there was none. */
int try_call(unsigned long addr, bool *ran)
{
	u32 result;

	armed_trap = 0;
	armed_task = current;
	WRITE_ONCE(armed_ip, addr);
	asm volatile(ANNOTATE_RETPOLINE_SAFE "\n\t"
		     "call *%[addr]\n"
		     : "=a" (result), ASM_CALL_CONSTRAINT
		     : [addr] "r" (addr)
		     : "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11",
		       "cc", "memory");
	WRITE_ONCE(armed_ip, 0);
	*ran = result == PAYLOAD_RAN;
	return armed_trap;
}

/* The denied call returns to where it came from. */
static int gp_event(struct notifier_block *nb, unsigned long event, void *data)
{
	struct die_args *args = data;
	struct pt_regs *regs = args->regs;

	if (event != DIE_GPF || !READ_ONCE(armed_ip) ||
	    regs->ip != armed_ip || current != armed_task)
		return NOTIFY_DONE;
	armed_trap = args->trapnr;
	regs->ip = *(unsigned long *)regs->sp;
	regs->sp += sizeof(unsigned long);
	regs->ax = PAYLOAD_DENIED;
	return NOTIFY_STOP;
}

static struct notifier_block gp_notifier = {
	.notifier_call = gp_event,
};

void payload_copy(void *to)
{
	memcpy(to, payload, sizeof(payload));
}

/* From kmalloc(), so that the memory is contiguous. */
static struct heki_query *query;

/* @block comes from kmalloc(), or is one page. Returns what the host does. */
long try_request(u64 op, void *block, size_t len)
{
	if (!kvm_para_available())
		return -KVM_ENOSYS;
	return kvm_hypercall4(KVM_HC_HEKI, op, virt_to_phys(block), len, 0);
}

/* Whether this kernel is sealed and the host changes text for it. */
bool host_serves_patch(void)
{
	return !try_request(HEKI_OP_QUERY, query, sizeof(*query)) &&
	       query->state == HEKI_STATE_SEALED && query->patch;
}

static void meanwhile_run(struct work_struct *work)
{
	struct meanwhile *meanwhile = container_of(work, struct meanwhile, work);
	bool going = true;

	/* Pairs with that in meanwhile_begin(). */
	smp_store_release(&meanwhile->started, true);
	for (unsigned int i = 0; i < MEANWHILE_STEPS && going; i++)
		going = meanwhile->step(meanwhile->arg, i) && !READ_ONCE(meanwhile->stop);
}

/*
 * Returns when another CPU is at it, false if there is none. The caller stays on
 * its CPU until meanwhile_end().
 */
bool meanwhile_begin(struct meanwhile *meanwhile)
{
	unsigned int cpu;

	migrate_disable();
	cpu = cpumask_any_but(cpu_online_mask, raw_smp_processor_id());
	if (cpu >= nr_cpu_ids) {
		migrate_enable();
		return false;
	}
	INIT_WORK_ONSTACK(&meanwhile->work, meanwhile_run);
	queue_work_on(cpu, system_highpri_wq, &meanwhile->work);
	/* Pairs with that in meanwhile_run(). */
	while (!smp_load_acquire(&meanwhile->started))
		cpu_relax();
	return true;
}

/* Returns when the other CPU is done. */
void meanwhile_end(struct meanwhile *meanwhile)
{
	WRITE_ONCE(meanwhile->stop, true);
	flush_work(&meanwhile->work);
	destroy_work_on_stack(&meanwhile->work);
	migrate_enable();
}

int tools_init(void)
{
	int ret;

	query = kzalloc_obj(*query);
	if (!query)
		return -ENOMEM;
	ret = register_die_notifier(&gp_notifier);
	if (ret)
		kfree(query);
	return ret;
}

void tools_exit(void)
{
	unregister_die_notifier(&gp_notifier);
	kfree(query);
}
