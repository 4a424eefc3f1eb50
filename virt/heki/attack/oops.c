// SPDX-License-Identifier: GPL-2.0
/*
 * What an attack looks like to who must read the log: threads that do it, and
 * handle no exception.
 *
 * Write "write", "exec", "cr", "msr" or "idt" into debugfs/heki_attack/oops, or
 * "other" for a fault that no host causes. The thread that does it is gone afterwards; where
 * nothing stops it, it puts back what it changed. After "panic" the kernel is gone.
 *
 * Neighbours: main.c, which makes the file; write.c, tools.c. Locks: oops_lock.
 */
#include <linux/fs.h>
#include <linux/kthread.h>
#include <linux/mutex.h>
#include <linux/panic.h>
#include <linux/sched/task.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include <asm/asm.h>
#include <asm/desc.h>
#include <asm/msr.h>
#include <asm/nospec-branch.h>
#include <asm/pgtable.h>
#include <asm/processor-flags.h>
#include <asm/special_insns.h>

#include "heki_attack.h"

static DEFINE_MUTEX(oops_lock);

/* Has a page of its own that maps text, and may write it. */
static int oops_write(void *alias)
{
	u8 *byte = alias;

	WRITE_ONCE(*byte, READ_ONCE(*byte));
	return 0;
}

/* Not native_write_cr0(), which sets the bit again. */
static int oops_cr(void *unused)
{
	unsigned long cr0 = read_cr0();

	local_irq_disable();
	asm volatile("mov %0, %%cr0" : : "r" (cr0 & ~X86_CR0_WP) : "memory");
	asm volatile("mov %0, %%cr0" : : "r" (cr0) : "memory");
	local_irq_enable();
	return 0;
}

static void write_msr(u32 msr, u64 value)
{
	asm volatile("wrmsr" : : "c" (msr), "a" ((u32)value), "d" (value >> 32) : "memory");
}

static int oops_msr(void *unused)
{
	u64 lstar;

	rdmsrq(MSR_LSTAR, lstar);
	local_irq_disable();
	write_msr(MSR_LSTAR, lstar ^ 0x1000);
	write_msr(MSR_LSTAR, lstar);
	local_irq_enable();
	return 0;
}

/* A table with a gate less. */
static int oops_idt(void *unused)
{
	struct desc_ptr idt, other;

	store_idt(&idt);
	other = idt;
	other.size -= sizeof(gate_desc);
	local_irq_disable();
	asm volatile("lidt %0" : : "m" (other));
	asm volatile("lidt %0" : : "m" (idt));
	local_irq_enable();
	return 0;
}

/* Calls code that lies in no text. */
static int oops_exec(void *code)
{
	asm volatile(ANNOTATE_RETPOLINE_SAFE "\n\t"
		     "call *%[code]\n"
		     : ASM_CALL_CONSTRAINT
		     : [code] "r" (code)
		     : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11",
		       "cc", "memory");
	return 0;
}

/* An address that is none. */
static int oops_other(void *unused)
{
	WRITE_ONCE(*(u8 *)0x8000000000000000UL, 0);
	return 0;
}

/* Runs fn in a thread that may not live through it. */
static int run_thread(int (*fn)(void *arg), void *arg)
{
	struct task_struct *task = kthread_create(fn, arg, "heki_oops");

	if (IS_ERR(task))
		return PTR_ERR(task);
	get_task_struct(task);
	wake_up_process(task);
	/* Nobody stops it: it ends by itself, in the one way or the other. */
	while (!READ_ONCE(task->exit_state))
		schedule_timeout_uninterruptible(1);
	put_task_struct(task);
	return 0;
}

static int run_write(void)
{
	struct attack_report report = {};
	const u8 *target = find_target(&report);
	u8 *alias;
	int ret;

	if (!target)
		return -ENOENT;
	alias = map_writable(target);
	if (!alias)
		return -ENOMEM;
	ret = run_thread(oops_write, alias);
	unmap_writable(alias);
	return ret;
}

static int run_exec(void)
{
	void *code = vmalloc(PAGE_SIZE);
	struct leaf leaf;
	int ret = -ENOENT;

	if (!code)
		return -ENOMEM;
	payload_copy(code);
	if (leaf_find(&leaf, (unsigned long)code)) {
		leaf_edit(&leaf, 0, _PAGE_NX);
		flush_everywhere();
		ret = run_thread(oops_exec, code);
		leaf_restore(&leaf);
		flush_everywhere();
	}
	vfree(code);
	return ret;
}

static int run_oops(const char *name)
{
	if (!strcmp(name, "write"))
		return run_write();
	if (!strcmp(name, "exec"))
		return run_exec();
	if (!strcmp(name, "cr"))
		return run_thread(oops_cr, NULL);
	if (!strcmp(name, "msr"))
		return run_thread(oops_msr, NULL);
	if (!strcmp(name, "idt"))
		return run_thread(oops_idt, NULL);
	if (!strcmp(name, "other"))
		return run_thread(oops_other, NULL);
	if (!strcmp(name, "panic"))
		panic("heki_attack: asked for");
	return -EINVAL;
}

static ssize_t oops_file_write(struct file *file, const char __user *ubuf,
			       size_t len, loff_t *ppos)
{
	char name[16] = "";
	int ret;

	if (len >= sizeof(name))
		return -EINVAL;
	if (copy_from_user(name, ubuf, len))
		return -EFAULT;
	guard(mutex)(&oops_lock);
	ret = run_oops(strim(name));
	return ret ?: len;
}

const struct file_operations oops_fops = {
	.owner = THIS_MODULE,
	.write = oops_file_write,
};
