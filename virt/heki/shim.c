// SPDX-License-Identifier: GPL-2.0
/*
 * The C half of heki_guest; see shim.h.
 *
 * It owns the module's init, on purpose not __init: the host takes the right
 * to run and to write away from what it is not told of, while init is still
 * running, and freed init text would be written by the kernel afterwards. So
 * this module has no init text at all. It has no exit either: a seal is for
 * good.
 *
 * Neighbours: ffi.rs, text_hooks.c. Locks: none of its own.
 */
#define pr_fmt(fmt) "heki: " fmt

#include <linux/atomic.h>
#include <linux/cleanup.h>
#include <linux/cpu.h>
#include <linux/delay.h>
#include <linux/efi.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/io.h>
#include <linux/irqflags.h>
#include <linux/jump_label.h>
#include <linux/kdebug.h>
#include <linux/kernel_read_file.h>
#include <linux/kexec.h>
#include <linux/kobject.h>
#include <linux/kvm_para.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/notifier.h>
#include <linux/panic.h>
#include <linux/pgtable.h>
#include <linux/ratelimit.h>
#include <linux/rculist.h>
#include <linux/rcupdate.h>
#include <linux/reboot.h>
#include <linux/sizes.h>
#include <linux/smp.h>
#include <linux/static_call.h>
#include <linux/string.h>
#include <linux/suspend.h>
#include <linux/syscore_ops.h>
#include <linux/sysfs.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

#include <asm/desc.h>
#include <asm/fpu/xcr.h>
#include <asm/msr.h>
#include <asm/special_insns.h>
#include <asm/text-patching.h>

#include <uapi/linux/heki.h>

#include "shim.h"
#include "text_hooks.h"

static char *require;
module_param(require, charp, 0444);
MODULE_PARM_DESC(require, "Protections without which loading fails: any of write,exec,cr,msr,dt");

static char *bpf;
module_param(bpf, charp, 0444);
MODULE_PARM_DESC(bpf, "BPF's compiler, which a sealed kernel cannot use: interpreter (turn it off, default) or refuse (to load while it is on)");

static int heki_guest_init(void)
{
	return heki_guest_load(require ?: "", bpf ?: "interpreter");
}
module_init(heki_guest_init);

MODULE_DESCRIPTION("Heki: have the hypervisor seal this kernel's memory");
MODULE_LICENSE("GPL");

bool heki_shim_on_kvm(void)
{
	return kvm_para_available();
}

long heki_shim_hypercall(u64 op, u64 gpa, u64 len)
{
	return kvm_hypercall4(KVM_HC_HEKI, op, gpa, len, 0);
}

/*
 * Of memory from kmalloc(), which is contiguous, or within a page of a stack,
 * which for kgdb may be that of an exception.
 */
u64 heki_shim_gpa(const void *ptr)
{
	if (virt_addr_valid(ptr))
		return virt_to_phys((void *)ptr);
	return slow_virt_to_phys((void *)ptr);
}

/* The IDT's page, 0 if this CPU has none. */
u64 heki_shim_idt(void)
{
	struct desc_ptr idt;
	unsigned int level;

	store_idt(&idt);
	if (!lookup_address(idt.address, &level))
		return 0;
	return slow_virt_to_phys((void *)idt.address) & PAGE_MASK;
}

void heki_shim_areas(struct heki_areas *areas)
{
	areas->image = __START_KERNEL_map;
	areas->modules = MODULES_VADDR;
	areas->modules_end = MODULES_END;
	areas->low = PAGE_OFFSET;
	areas->low_end = PAGE_OFFSET + SZ_1M;
}

/*
 * With interrupts off: who frees a page-table page waits for this CPU. The
 * hardware's own present bit counts; pte_present() would take PROT_NONE too.
 */
void heki_shim_leaf(u64 addr, struct heki_leaf *leaf)
{
	unsigned long irq_flags;
	unsigned int level;
	u64 flags = 0;
	pte_t *pte;

	memset(leaf, 0, sizeof(*leaf));
	local_irq_save(irq_flags);
	pte = lookup_address(addr, &level);
	leaf->size = page_level_size(level);
	if (pte)
		flags = pte_flags(*pte);
	if (flags & _PAGE_PRESENT) {
		leaf->present = true;
		leaf->writable = flags & _PAGE_RW;
		leaf->executable = !(flags & _PAGE_NX);
		leaf->phys = (u64)pte_pfn(*pte) << PAGE_SHIFT & page_level_mask(level);
	}
	local_irq_restore(irq_flags);
}

u64 heki_shim_cr0(void)
{
	return read_cr0();
}

u64 heki_shim_cr4(void)
{
	return __read_cr4();
}

/* TR by its descriptor, of which the CPU keeps a copy. */
static u64 read_tr(u32 index)
{
	const struct desc_struct *desc;
	unsigned long tr;
	u64 value;

	migrate_disable();
	store_tr(tr);
	desc = (const void *)get_current_gdt_ro() + tr;
	switch (index) {
	case 0:
		value = get_desc_base(desc) | (u64)((const tss_desc *)desc)->base3 << 32;
		break;
	case 1:
		value = get_desc_limit(desc);
		break;
	default:
		value = tr;
	}
	migrate_enable();
	return value;
}

static u64 read_table(u32 reg, u32 index)
{
	struct desc_ptr dt;
	unsigned long ldt;

	switch (reg) {
	case HEKI_REG_LDTR:
		store_ldt(ldt);
		return (u16)ldt;
	case HEKI_REG_TR:
		return read_tr(index);
	case HEKI_REG_IDTR:
		store_idt(&dt);
		break;
	default:
		native_store_gdt(&dt);
	}
	return index ? dt.size : dt.address;
}

/* A register of this CPU other than CR0 and CR4; false if it has none. */
bool heki_shim_read_register(u32 reg, u32 index, u64 *value)
{
	switch (reg) {
	case HEKI_REG_MSR:
		return !rdmsrq_safe(index, value);
	case HEKI_REG_XCR0:
		if (!cpu_feature_enabled(X86_FEATURE_OSXSAVE))
			return false;
		*value = xgetbv(XCR_XFEATURE_ENABLED_MASK);
		return true;
	default:
		*value = read_table(reg, index);
		return true;
	}
}

struct expectations {
	struct heki_expected *all;
	size_t nr;
};

static void compare_here(void *info)
{
	const struct expectations *want = info;
	u64 value;

	for (size_t i = 0; i < want->nr; i++) {
		struct heki_expected *one = &want->all[i];

		if (!heki_shim_read_register(one->reg, one->index, &value) ||
		    (value ^ one->value) & one->mask)
			WRITE_ONCE(one->differs, true);
	}
}

void heki_shim_compare_everywhere(struct heki_expected *all, size_t nr)
{
	struct expectations want = { .all = all, .nr = nr };

	on_each_cpu(compare_here, &want, 1);
}

void heki_shim_clock(struct heki_clock *clock)
{
	struct system_time_snapshot snapshot;

	ktime_get_snapshot_id(CLOCK_MONOTONIC, &snapshot);
	clock->early = snapshot.cs_id == CSID_X86_TSC_EARLY;
	clock->changes = snapshot.cs_was_changed_seq;
}

/*
 * Waits for what the module loader left to the workqueue: the init text of
 * modules loaded before, which is written when freed. The second round is for
 * work that the first one queued.
 */
void heki_shim_quiesce(void)
{
	__flush_workqueue(system_percpu_wq);
	__flush_workqueue(system_percpu_wq);
}

/* The list's head is on it as well; it alone is not in the module area. */
static bool is_module(const struct module *mod)
{
	unsigned long addr = (unsigned long)mod;

	return addr >= MODULES_VADDR && addr < MODULES_END;
}

/* Whether no module but this one is being loaded or unloaded. */
bool heki_shim_modules_settled(void)
{
	struct module *mod;

	guard(rcu)();
	list_for_each_entry_rcu(mod, &THIS_MODULE->list, list)
		if (is_module(mod) && mod->state != MODULE_STATE_LIVE)
			return false;
	return true;
}

/*
 * Reads or writes /proc/@path, through a mount of its own: what the caller's
 * /proc is does not matter. Returns the number of bytes.
 */
static ssize_t access_proc(const char *path, char *buf, size_t len, bool write)
{
	struct file_system_type *proc = get_fs_type("proc");
	struct vfsmount *mnt;
	struct file *file;
	ssize_t ret;

	if (!proc)
		return -ENODEV;
	mnt = kern_mount(proc);
	module_put(proc->owner);
	if (IS_ERR(mnt))
		return PTR_ERR(mnt);

	file = file_open_root_mnt(mnt, path, write ? O_WRONLY : O_RDONLY, 0);
	if (IS_ERR(file)) {
		ret = PTR_ERR(file);
	} else {
		ret = write ? kernel_write(file, buf, len, NULL) :
			      kernel_read(file, buf, len, NULL);
		filp_close(file, NULL);
	}
	kern_unmount(mnt);
	return ret;
}

int heki_shim_write_sysctl(const char *path, const char *value)
{
	ssize_t ret = access_proc(path, (char *)value, strlen(value), true);

	return ret < 0 ? ret : 0;
}

ssize_t heki_shim_read_sysctl(const char *path, char *value, size_t len)
{
	return access_proc(path, value, len, false);
}

bool heki_shim_crash_kernel(void)
{
	return kexec_crash_loaded();
}

static int pm_event(struct notifier_block *nb, unsigned long event, void *unused)
{
	switch (event) {
	case PM_HIBERNATION_PREPARE:
	case PM_SUSPEND_PREPARE:
	case PM_RESTORE_PREPARE:
		pr_warn("suspend and hibernation are refused: this kernel is sealed\n");
		return notifier_from_errno(-EPERM);
	default:
		return NOTIFY_DONE;
	}
}

/* Before all others, which would have to undo what they prepared. */
static struct notifier_block pm_notifier = {
	.notifier_call = pm_event,
	.priority = INT_MAX,
};

/* Of an image that was loaded before the seal; what is loaded later is the host's. */
static int reboot_event(struct notifier_block *nb, unsigned long event, void *cmd)
{
	if (event != SYS_RESTART || !cmd || strcmp(cmd, "kexec reboot"))
		return NOTIFY_DONE;
	pr_emerg("kexec is refused: this kernel is sealed; restarting the machine instead\n");
	emergency_restart();
	return NOTIFY_DONE;
}

static struct notifier_block reboot_notifier = {
	.notifier_call = reboot_event,
	.priority = INT_MAX,
};

/* Refuses, in the kernel, what would break it; heki_shim_unblock() undoes it. */
int heki_shim_block(void)
{
	int ret = register_pm_notifier(&pm_notifier);

	if (ret)
		return ret;
	ret = register_reboot_notifier(&reboot_notifier);
	if (ret) {
		unregister_pm_notifier(&pm_notifier);
		return ret;
	}
	return 0;
}

void heki_shim_unblock(void)
{
	unregister_reboot_notifier(&reboot_notifier);
	unregister_pm_notifier(&pm_notifier);
}

static void end_unheld(struct work_struct *work)
{
	panic("heki: the host no longer holds this kernel: it slept, and its seal is gone");
}
static DECLARE_WORK(unheld_work, end_unheld);

/*
 * With one CPU and interrupts off, before anything else goes on. A panic now would
 * not be seen, for consoles are suspended; before what is frozen runs they are back.
 */
static void woke(void *unused)
{
	if (heki_guest_is_sealed())
		return;
	pr_emerg("the host no longer holds this kernel: no seal after the wake\n");
	queue_work(system_freezable_wq, &unheld_work);
}

static const struct syscore_ops wake_ops = {
	.resume = woke,
};

static struct syscore wake = {
	.ops = &wake_ops,
};

/* Whoever sleeps in spite of the refusal. No notifier: who keeps others from refusing silences all. */
void heki_shim_watch_wakes(void)
{
	register_syscore(&wake);
}

/* Every CPU that comes or goes changes kernel text. */
void heki_shim_block_cpus(void)
{
	cpu_hotplug_disable();
}

void heki_shim_unblock_cpus(void)
{
	cpu_hotplug_enable();
}

/*
 * Firmware code is no kernel text and could not run. Without the flag, every
 * caller gets an error instead. Returns whether it was set.
 */
bool heki_shim_stop_efi(void)
{
	if (!IS_ENABLED(CONFIG_EFI) || !efi_enabled(EFI_RUNTIME_SERVICES))
		return false;
	clear_bit(EFI_RUNTIME_SERVICES, &efi.flags);
	return true;
}

/*
 * Whether the page of text at @addr holds nothing but INT3. It may be unmapped
 * meanwhile.
 */
bool heki_shim_is_trap_page(u64 addr)
{
	const u64 traps = INT3_INSN_OPCODE * 0x0101010101010101ull;
	bool found = false;
	u64 word;

	pagefault_disable();
	for (u64 at = addr; at < addr + PAGE_SIZE; at += sizeof(word)) {
		__get_kernel_nofault(&word, (u64 *)at, u64, out);
		if (word != traps)
			goto out;
	}
	found = true;
out:
	pagefault_enable();
	return found;
}

static void add_table(struct heki_area *area, u32 kind, const void *table, size_t len)
{
	*area = (struct heki_area) {
		.kind = kind,
		.va = (unsigned long)table,
		.len = len,
	};
}

static void add_ftrace_sites(struct heki_area *area, const struct module *mod)
{
#ifdef CONFIG_DYNAMIC_FTRACE
	add_table(area, HEKI_AREA_MCOUNT, mod->ftrace_callsites,
		  mod->num_ftrace_callsites * sizeof(*mod->ftrace_callsites));
#else
	add_table(area, HEKI_AREA_MCOUNT, NULL, 0);
#endif
}

/*
 * The areas of the kernel, and the tables of all modules that are loaded. Those
 * of this one are not read-only before its init is over, so they must be empty.
 * Returns how many there are, more than @max if not all found room.
 */
size_t heki_shim_tables(struct heki_area *areas, size_t max)
{
	struct heki_area last[3];
	struct module *mod;
	size_t nr;

	if (max < HEKI_TEXT_AREAS)
		return HEKI_TEXT_AREAS;
	nr = heki_text_areas(areas);

	guard(rcu)();
	list_for_each_entry_rcu(mod, &THIS_MODULE->list, list) {
		if (!is_module(mod) || mod->state != MODULE_STATE_LIVE)
			continue;
		add_table(&last[0], HEKI_AREA_JUMP_TABLE, mod->jump_entries,
			  mod->num_jump_entries * sizeof(*mod->jump_entries));
		add_table(&last[1], HEKI_AREA_STATIC_CALL_SITES, mod->static_call_sites,
			  mod->num_static_call_sites * sizeof(*mod->static_call_sites));
		add_ftrace_sites(&last[2], mod);
		for (int i = 0; i < ARRAY_SIZE(last); i++)
			if (nr++ < max)
				areas[nr - 1] = last[i];
	}
	return nr;
}

/*
 * The host has the tables of other modules, not of this one, and ftrace would
 * stumble over its functions.
 */
void heki_shim_untrace_self(void)
{
	heki_text_untrace(THIS_MODULE);
}

/* Calls of the hooks under way. */
static atomic_t calls = ATOMIC_INIT(0);
DEFINE_LOCK_GUARD_0(call, atomic_inc(&calls), atomic_dec(&calls))

static bool poke_batch(const struct smp_text_poke_loc *vec, unsigned int nr)
{
	guard(call)();
	return heki_guest_poke_batch(vec, nr);
}

static int poke(void *addr, const void *src, size_t len, bool set)
{
	guard(call)();
	return heki_guest_poke(addr, src, len, set);
}

static int may_probe(const void *addr, bool jump)
{
	guard(call)();
	return heki_guest_may_probe(addr, jump);
}

static int may_load(void)
{
	guard(call)();
	return heki_guest_may_load();
}

static int make_rw(void *ptr, size_t size)
{
	guard(call)();
	return heki_guest_make_rw(ptr, size);
}

static int make_rox(void *ptr, size_t size)
{
	guard(call)();
	return heki_guest_make_rox(ptr, size);
}

static int kexec(enum guest_kexec step, int fd, unsigned long flags)
{
	guard(call)();
	return heki_guest_kexec(step, fd, flags);
}

static const struct guest_text_ops *get_ops(void)
{
	static const struct guest_text_ops ops = {
		.poke_batch = poke_batch,
		.poke = poke,
		.may_probe = may_probe,
		.may_load = may_load,
		.make_rw = make_rw,
		.make_rox = make_rox,
		.kexec = kexec,
	};

	return &ops;
}

void heki_shim_install_hooks(void)
{
	heki_text_install(get_ops);
}

/*
 * Returns when no CPU is in the hooks, so that this module can go. A call may
 * sleep only while it is counted: the first wait is for those that came before
 * and are not counted yet, the last for those that are no longer.
 */
void heki_shim_remove_hooks(void)
{
	heki_text_remove();
	synchronize_rcu_tasks();
	while (atomic_read(&calls))
		msleep(10);
	synchronize_rcu_tasks();
}

/* Says that a change of the text at @addr, the first of @nr, is refused. */
void heki_shim_refused(u64 addr, size_t nr, const char *why)
{
	pr_warn_ratelimited("refused: %pS (%zu in all): %s\n", (void *)addr, nr, why);
}

/* Says that the key, or the trampoline, at @addr never changes. */
void heki_shim_frozen(u64 addr)
{
	pr_info("frozen by the VMM: %ps\n", (void *)addr);
}

/* Says that @what is refused, and why. */
void heki_shim_refused_use(const char *what, const char *why)
{
	pr_warn_ratelimited("refused: %s: %s\n", what, why);
}

/* The whole file of a kernel, in memory of its own. Returns its length. */
ssize_t heki_shim_read_kernel(int fd, void **image, size_t max)
{
	*image = NULL;
	return kernel_read_file_from_fd(fd, 0, image, max, NULL, READING_KEXEC_IMAGE);
}

void heki_shim_free_kernel(void *image)
{
	vfree(image);
}

/* Devices are shut down: the host takes over, or the machine restarts. */
static int start_kernel_of_host(struct sys_off_data *data)
{
	heki_guest_start_kernel();
	pr_emerg("the host does not start the kernel that was loaded; restarting the machine instead\n");
	return NOTIFY_DONE;
}

/* Does not return but on an error. */
int heki_shim_start_kernel(void)
{
	struct sys_off_handler *handler;

	handler = register_sys_off_handler(SYS_OFF_MODE_RESTART_PREPARE, SYS_OFF_PRIO_PLATFORM,
					   start_kernel_of_host, NULL);
	if (IS_ERR(handler))
		return PTR_ERR(handler);
	kernel_restart("kexec by the host");
	return -EIO;
}

/* Oopses of this kernel that a denial caused. */
static atomic_t denials = ATOMIC_INIT(0);

static void say_denied(int what, const struct heki_denial *denial, const struct heki_fault *fault)
{
	void *ip = (void *)fault->ip;
	u64 aim = denial->aim;

	switch (what) {
	case HEKI_DENIED_WRITE:
		pr_alert("denied by the hypervisor, no hardware fault: write of sealed %pS by %pS\n",
			 (void *)aim, ip);
		break;
	case HEKI_DENIED_EXEC:
		pr_alert("denied by the hypervisor, no hardware fault: to run %pS, which is no sealed text\n",
			 (void *)aim);
		break;
	case HEKI_DENIED_CR:
		pr_alert("denied by the hypervisor, no hardware fault: to clear pinned bits %#llx of CR%u by %pS\n",
			 aim, fault->reg, ip);
		break;
	case HEKI_DENIED_LOAD:
		pr_alert("denied by the hypervisor, no hardware fault: to change pinned bits %#llx of %.*s by %pS\n",
			 aim, (int)denial->name_len, denial->name, ip);
		break;
	}
}

/* Before the kernel prints the oops. A fault that the code itself handles does not come here. */
static int die_event(struct notifier_block *nb, unsigned long event, void *data)
{
	const struct die_args *args = data;
	struct heki_denial denial;
	struct heki_fault fault;
	int what;

	if (event != DIE_GPF || user_mode(args->regs))
		return NOTIFY_DONE;
	heki_text_fault(&fault, args->regs);
	what = heki_guest_judge(&fault, &denial);
	if (what) {
		atomic_inc(&denials);
		say_denied(what, &denial, &fault);
	}
	return NOTIFY_DONE;
}

static struct notifier_block die_notifier = {
	.notifier_call = die_event,
};

static ssize_t state_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%s\n", heki_guest_is_sealed() ? "sealed" : "not sealed");
}

static ssize_t ranges_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%zu\n", heki_guest_nr_ranges());
}

static ssize_t denials_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%d\n", atomic_read(&denials));
}

static ssize_t held_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf);

/* In the order of require.rs. */
static struct kobj_attribute held_attrs[] = {
	__ATTR(write, 0444, held_show, NULL),
	__ATTR(exec, 0444, held_show, NULL),
	__ATTR(cr, 0444, held_show, NULL),
	__ATTR(msr, 0444, held_show, NULL),
	__ATTR(dt, 0444, held_show, NULL),
};

static ssize_t held_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	const char *why;
	size_t len;

	if (heki_guest_held(attr - held_attrs, &why, &len))
		return sysfs_emit(buf, "held\n");
	return sysfs_emit(buf, "not held: %.*s\n", (int)len, why);
}

static struct kobj_attribute state_attr = __ATTR_RO(state);
static struct kobj_attribute ranges_attr = __ATTR_RO(ranges);
static struct kobj_attribute denials_attr = __ATTR_RO(denials);

static const struct attribute *const shown[] = {
	&state_attr.attr,
	&held_attrs[0].attr,
	&held_attrs[1].attr,
	&held_attrs[2].attr,
	&held_attrs[3].attr,
	&held_attrs[4].attr,
	&ranges_attr.attr,
	&denials_attr.attr,
	NULL,
};

/* Makes /sys/kernel/heki, and has oopses looked at. */
int heki_shim_show(void)
{
	struct kobject *kobj = kobject_create_and_add("heki", kernel_kobj);
	int ret;

	if (!kobj)
		return -ENOMEM;
	ret = sysfs_create_files(kobj, shown);
	if (!ret)
		ret = register_die_notifier(&die_notifier);
	if (ret)
		kobject_put(kobj);
	return ret;
}
