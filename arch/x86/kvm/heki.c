// SPDX-License-Identifier: GPL-2.0
/*
 * Heki's x86 glue: what only C can do for the Rust in virt/kvm/heki/.
 *
 * From KVM to Rust: the bodies of the hooks in heki.h. They translate page
 * roles, faults and exceptions into the plain integers that Rust decides on.
 * From Rust to KVM: heki_glue_*(), called by virt/kvm/heki/kvm/ only.
 * To user space: the module parameter, the KVM device, the debugfs file.
 *
 * Locks, outermost first: kvm->lock, vcpu->mutex, kvm->slots_lock, kvm->srcu,
 * kvm->mmu_lock. The hooks of the MMU run under the last two and never sleep.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": heki: " fmt

#include <linux/debugfs.h>
#include <linux/kvm_host.h>
#include <linux/moduleparam.h>
#include <linux/ratelimit.h>
#include <linux/seq_file.h>

#include "cpuid.h"
#include "fpu.h"
#include "heki.h"
#include "kvm_emulate.h"
#include "mmu.h"
#include "mmu/mmu_internal.h"
#include "mmu/spte.h"
#include "msrs.h"
#include "regs.h"
#include "x86.h"

#define CREATE_TRACE_POINTS
#include <trace/events/kvm_heki.h>

DEFINE_STATIC_KEY_FALSE(kvm_heki_key);

/* A guest can set no bit that has no decision in virt/kvm/heki/policy/registers.rs. */
KVM_HEKI_ASSERT_SETTABLE(CR0, ~CR0_RESERVED_BITS);
KVM_HEKI_ASSERT_SETTABLE(CR4, ~CR4_RESERVED_BITS);

/*
 * Opting in
 */

static bool heki_all;

/* Can loads of descriptor-table registers be made to exit? The vendor module says so. */
static bool heki_dt_exits;

static int heki_param_set(const char *val, const struct kernel_param *kp)
{
	int mode = sysfs_match_string(((const char * const []){ "off", "all", NULL }), val);

	if (mode < 0)
		return -EINVAL;
	heki_all = mode;
	return 0;
}

static int heki_param_get(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%s\n", heki_all ? "all" : "off");
}

static const struct kernel_param_ops heki_param_ops = {
	.set = heki_param_set,
	.get = heki_param_get,
};
module_param_cb(heki, &heki_param_ops, NULL, 0444);
MODULE_PARM_DESC(heki, "VMs whose guest may seal itself: off (only those whose VMM asks) or all");

/* The CR4 bits that this CPU can hold set; VM entry fails with any other. */
static u64 heki_cr4_in_hardware(void)
{
	u64 bits = 0;

	if (boot_cpu_has(X86_FEATURE_SMEP))
		bits |= X86_CR4_SMEP;
	if (boot_cpu_has(X86_FEATURE_SMAP))
		bits |= X86_CR4_SMAP;
	if (boot_cpu_has(X86_FEATURE_UMIP))
		bits |= X86_CR4_UMIP;
	if (boot_cpu_has(X86_FEATURE_FSGSBASE))
		bits |= X86_CR4_FSGSBASE;
	if (kvm_cpu_cap_has(X86_FEATURE_SHSTK) || kvm_cpu_cap_has(X86_FEATURE_IBT))
		bits |= X86_CR4_CET;
	return bits;
}

/* Those that KVM refuses to see cleared, whether or not hardware can hold them. */
static u64 heki_cr4_pinnable(void)
{
	u64 bits = heki_cr4_in_hardware();

	/* Maybe emulated. */
	if (kvm_cpu_cap_has(X86_FEATURE_UMIP))
		bits |= X86_CR4_UMIP;
	if (kvm_cpu_cap_has(X86_FEATURE_PKU))
		bits |= X86_CR4_PKE;
	return bits;
}

static const char *heki_obstacle(struct kvm *kvm)
{
	if (kvm->arch.vm_type != KVM_X86_DEFAULT_VM || kvm->arch.heki_forbidden)
		return "this VM type keeps its state from KVM";
	if (!tdp_enabled || !tdp_mmu_enabled)
		return "no two-dimensional paging with the TDP MMU (kvm.tdp_mmu, kvm_intel.ept, kvm_amd.npt)";
	/* Known to KVM when it is loaded, so no build can tell. */
	if (kvm_caps.supported_efer_bits & ~KVM_HEKI_SETTABLE_EFER)
		return "KVM lets guests set a bit of EFER that Heki knows nothing of";
	return NULL;
}

static int heki_opt_in(struct kvm *kvm)
{
	const char *obstacle = heki_obstacle(kvm);
	struct kvm_heki *heki;

	if (obstacle) {
		pr_info_ratelimited("refused for the VM of process %d: %s\n",
				    current->tgid, obstacle);
		return -EOPNOTSUPP;
	}

	heki = __kvm_heki_create(heki_cr4_in_hardware(), heki_cr4_pinnable());
	if (!heki)
		return -ENOMEM;
	ratelimit_state_init(&heki->log, DEFAULT_RATELIMIT_INTERVAL, DEFAULT_RATELIMIT_BURST);

	static_branch_inc(&kvm_heki_key);
	smp_store_release(&kvm->arch.heki, heki);
	return 0;
}

void __kvm_heki_init_vm(struct kvm *kvm)
{
	/* A VM that cannot be held stays off; its guest learns so by QUERY. */
	if (heki_all)
		heki_opt_in(kvm);
}

void __kvm_heki_destroy_vm(struct kvm *kvm)
{
	__kvm_heki_destroy(kvm->arch.heki);
	kvm->arch.heki = NULL;
	static_branch_dec(&kvm_heki_key);
}

/*
 * The KVM device
 */

static const struct kvm_device_ops heki_device_ops;

static bool heki_has_device(struct kvm *kvm)
{
	struct kvm_device *dev;

	list_for_each_entry(dev, &kvm->devices, vm_node) {
		if (dev->ops == &heki_device_ops)
			return true;
	}
	return false;
}

static int heki_device_create(struct kvm_device *dev, u32 type)
{
	struct kvm *kvm = dev->kvm;
	int ret;

	if (heki_has_device(kvm))
		return -EEXIST;
	if (!kvm->arch.heki) {
		if (kvm->created_vcpus)
			return -EBUSY;
		ret = heki_opt_in(kvm);
		if (ret)
			return ret;
		kvm_heki_create_debugfs(kvm);
	}
	kvm->arch.heki_asked = true;
	return 0;
}

/* The VM stays opted in; another device may follow. */
static void heki_device_release(struct kvm_device *dev)
{
	kfree(dev);
}

/* As vmemdup_user(), on the account of who asks. */
static void *heki_copy_in(const void __user *user, size_t len)
{
	void *data = kvmalloc(len, GFP_KERNEL_ACCOUNT);

	if (!data)
		return ERR_PTR(-ENOMEM);
	if (copy_from_user(data, user, len)) {
		kvfree(data);
		return ERR_PTR(-EFAULT);
	}
	return data;
}

/* Bytes of a profile with this header, zero if one of its arrays is too long. */
static size_t heki_profile_bytes(const struct heki_profile *header)
{
	const size_t max = HEKI_MAX_PROFILE_ENTRIES;

	if (header->nr_functions > max || header->nr_calls > max ||
	    header->nr_frozen > max || header->nr_probes > HEKI_MAX_PROBES)
		return 0;
	return sizeof(*header) +
	       sizeof(u32) * (header->nr_functions + header->nr_calls +
			      header->nr_frozen + header->nr_probes);
}

/* What the VMM knows of the guest's kernel. Copied once; Rust checks the copy. */
static int heki_device_set_profile(struct kvm *kvm, const void __user *user)
{
	struct heki_profile header;
	void *data __free(kvfree) = NULL;
	size_t len;

	if (copy_from_user(&header, user, sizeof(header)))
		return -EFAULT;
	len = heki_profile_bytes(&header);
	if (!len)
		return -E2BIG;
	data = heki_copy_in(user, len);
	if (IS_ERR(data))
		return PTR_ERR(data);

	guard(mutex)(&kvm->lock);
	if (kvm->created_vcpus)
		return -EBUSY;
	guard(mutex)(&kvm->slots_lock);
	return __kvm_heki_set_profile(kvm->arch.heki, kvm, data, len);
}

/* Once, and before there is a vCPU that could have seen another policy. */
static int heki_device_set_policy(struct kvm *kvm, const void __user *user)
{
	struct kvm_heki *heki = kvm->arch.heki;
	struct heki_policy policy;
	int ret;

	if (copy_from_user(&policy, user, sizeof(policy)))
		return -EFAULT;

	guard(mutex)(&kvm->lock);
	if (kvm->created_vcpus)
		return -EBUSY;
	guard(mutex)(&kvm->slots_lock);
	ret = __kvm_heki_set_policy(heki, kvm, &policy);
	if (ret)
		return ret;

	heki->action[HEKI_CLASS_WRITE] = policy.write;
	heki->action[HEKI_CLASS_EXEC] = policy.exec;
	heki->action[HEKI_CLASS_REGISTER] = policy.reg;
	heki->action[HEKI_CLASS_PATCH] = policy.patch;
	return 0;
}

static int heki_device_get_policy(struct kvm *kvm, void __user *user)
{
	struct heki_policy policy;

	mutex_lock(&kvm->slots_lock);
	__kvm_heki_get_policy(kvm->arch.heki, &policy);
	mutex_unlock(&kvm->slots_lock);
	return copy_to_user(user, &policy, sizeof(policy)) ? -EFAULT : 0;
}

static int heki_device_get_caps(struct kvm *kvm, void __user *user)
{
	struct heki_caps caps;

	__kvm_heki_get_caps(kvm->arch.heki, kvm_x86_call(tdp_has_smep)(kvm), heki_dt_exits,
			    &caps);
	return copy_to_user(user, &caps, sizeof(caps)) ? -EFAULT : 0;
}

/* What HEKI_OP_QUERY_PIN tells the guest: it takes a vCPU that has its CPUID. */
static int heki_device_get_pin(struct kvm *kvm, void __user *user)
{
	struct kvm_vcpu *vcpu = kvm_get_vcpu(kvm, 0);
	struct heki_pin pin;

	if (copy_from_user(&pin, user, sizeof(pin)))
		return -EFAULT;
	if (!vcpu)
		return -ENXIO;
	if (!mutex_trylock(&vcpu->mutex))
		return -EBUSY;
	vcpu_load(vcpu);
	kvm_load_guest_fpu(vcpu);	/* It has the shadow stack pointers. */
	kvm_vcpu_srcu_read_lock(vcpu);
	pin.mask = __kvm_heki_get_pin(kvm->arch.heki, vcpu, pin.reg, pin.index);
	kvm_vcpu_srcu_read_unlock(vcpu);
	kvm_put_guest_fpu(vcpu);
	vcpu_put(vcpu);
	mutex_unlock(&vcpu->mutex);
	return copy_to_user(user, &pin, sizeof(pin)) ? -EFAULT : 0;
}

/* What device models must not write. The VMM learns the number if its room is too small. */
static int heki_device_get_ranges(struct kvm *kvm, void __user *user)
{
	struct heki_range *ranges __free(kvfree) = NULL;
	struct heki_ranges header;
	u32 room;

	if (copy_from_user(&header, user, sizeof(header)))
		return -EFAULT;
	if (header.state)
		return -EINVAL;
	room = min(header.nr, HEKI_MAX_RANGES);
	ranges = kvcalloc(max(room, 1), sizeof(*ranges), GFP_KERNEL_ACCOUNT);
	if (!ranges)
		return -ENOMEM;

	mutex_lock(&kvm->slots_lock);
	header.nr = __kvm_heki_get_ranges(kvm->arch.heki, ranges, room);
	header.state = kvm_heki_sealed(kvm) ? HEKI_STATE_SEALED : HEKI_STATE_OPEN;
	mutex_unlock(&kvm->slots_lock);

	if (copy_to_user(user, &header, sizeof(header)))
		return -EFAULT;
	if (header.nr > room)
		return -E2BIG;
	return copy_to_user(user + sizeof(header), ranges, header.nr * sizeof(*ranges)) ?
	       -EFAULT : 0;
}

/* Each vCPU has its request pending, and finds the VM no longer paused. */
static int heki_device_resume(struct kvm *kvm)
{
	WRITE_ONCE(kvm->arch.heki->paused, 0);
	return 0;
}

/* The saved state and its length; nothing but the length if @room is less. */
static void *heki_save_state(struct kvm *kvm, u64 room, size_t *len)
{
	void *data;
	int ret;

	guard(mutex)(&kvm->slots_lock);

	*len = __kvm_heki_state_bytes(kvm->arch.heki, kvm);
	if (room < *len)
		return NULL;
	data = kvzalloc(*len, GFP_KERNEL_ACCOUNT);
	if (!data)
		return ERR_PTR(-ENOMEM);
	ret = __kvm_heki_save_state(kvm->arch.heki, kvm, data, *len);
	if (!ret)
		return data;
	kvfree(data);
	return ERR_PTR(ret);
}

/* The VMM has not heard of the denial that pauses the VM: what it saves would not be paused. */
static bool heki_owes_a_pause(struct kvm *kvm)
{
	const struct heki_exit *denial;
	struct kvm_vcpu *vcpu;
	unsigned long i;

	kvm_for_each_vcpu(i, vcpu, kvm) {
		denial = &vcpu->arch.heki.denial;
		if (denial->kind && denial->flags & HEKI_EXIT_IS_PAUSE)
			return true;
	}
	return false;
}

static int heki_device_get_state(struct kvm *kvm, void __user *user)
{
	struct heki_buffer buffer;
	size_t len = 0;
	int ret = 0;
	void *data;

	if (copy_from_user(&buffer, user, sizeof(buffer)))
		return -EFAULT;

	mutex_lock(&kvm->lock);
	data = ERR_PTR(kvm_heki_lock_vcpus(kvm));
	if (!data) {
		data = heki_owes_a_pause(kvm) ? ERR_PTR(-EBUSY) :
						heki_save_state(kvm, buffer.len, &len);
		kvm_unlock_all_vcpus(kvm);
	}
	mutex_unlock(&kvm->lock);
	if (IS_ERR(data))
		return PTR_ERR(data);

	if (!data && buffer.len)
		ret = -E2BIG;
	else if (data && copy_to_user(u64_to_user_ptr(buffer.data), data, len))
		ret = -EFAULT;
	kvfree(data);
	buffer.len = len;
	if (ret != -EFAULT && copy_to_user(user, &buffer, sizeof(buffer)))
		ret = -EFAULT;
	return ret;
}

/* In a VM that has not run: no vCPU has seen a world without the seal. */
static int heki_restore_state(struct kvm *kvm, const void *data, size_t len)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;
	int ret;

	kvm_for_each_vcpu(i, vcpu, kvm) {
		if (!kvm_can_set_cpuid_and_feature_msrs(vcpu))
			return -EBUSY;
	}
	vcpu = kvm_get_vcpu(kvm, 0);
	if (!vcpu)
		return -ENXIO;

	vcpu_load(vcpu);
	kvm_load_guest_fpu(vcpu);
	kvm_vcpu_srcu_read_lock(vcpu);
	ret = __kvm_heki_restore_state(kvm->arch.heki, vcpu, data, len);
	kvm_vcpu_srcu_read_unlock(vcpu);
	kvm_put_guest_fpu(vcpu);
	vcpu_put(vcpu);
	return ret;
}

/* Copied once; Rust checks the copy. */
static int heki_device_set_state(struct kvm *kvm, const void __user *user)
{
	struct heki_buffer buffer;
	void *data __free(kvfree) = NULL;
	int ret;

	if (copy_from_user(&buffer, user, sizeof(buffer)))
		return -EFAULT;
	if (!buffer.len)
		return -EINVAL;
	if (buffer.len > HEKI_MAX_STATE_BYTES)
		return -E2BIG;
	data = heki_copy_in(u64_to_user_ptr(buffer.data), buffer.len);
	if (IS_ERR(data))
		return PTR_ERR(data);

	guard(mutex)(&kvm->lock);

	ret = kvm_heki_lock_vcpus(kvm);
	if (ret)
		return ret;
	ret = heki_restore_state(kvm, data, buffer.len);
	kvm_unlock_all_vcpus(kvm);
	return ret;
}

static int heki_device_has_attr(struct kvm_device *dev, struct kvm_device_attr *attr)
{
	if (attr->group != KVM_DEV_HEKI_CTRL || attr->attr > KVM_DEV_HEKI_PIN)
		return -ENXIO;
	return 0;
}

static int heki_device_set_attr(struct kvm_device *dev, struct kvm_device_attr *attr)
{
	int ret = heki_device_has_attr(dev, attr);

	if (ret)
		return ret;
	if (attr->flags)
		return -EINVAL;
	switch (attr->attr) {
	case KVM_DEV_HEKI_RESET:
		return attr->addr ? -EINVAL : kvm_heki_reset_by_device(dev->kvm);
	case KVM_DEV_HEKI_PROFILE:
		return heki_device_set_profile(dev->kvm, u64_to_user_ptr(attr->addr));
	case KVM_DEV_HEKI_POLICY:
		return heki_device_set_policy(dev->kvm, u64_to_user_ptr(attr->addr));
	case KVM_DEV_HEKI_RESUME:
		return attr->addr ? -EINVAL : heki_device_resume(dev->kvm);
	case KVM_DEV_HEKI_STATE:
		return heki_device_set_state(dev->kvm, u64_to_user_ptr(attr->addr));
	default:
		return -ENXIO;
	}
}

static int heki_device_get_attr(struct kvm_device *dev, struct kvm_device_attr *attr)
{
	int ret = heki_device_has_attr(dev, attr);

	if (ret)
		return ret;
	if (attr->flags)
		return -EINVAL;
	switch (attr->attr) {
	case KVM_DEV_HEKI_CAPS:
		return heki_device_get_caps(dev->kvm, u64_to_user_ptr(attr->addr));
	case KVM_DEV_HEKI_POLICY:
		return heki_device_get_policy(dev->kvm, u64_to_user_ptr(attr->addr));
	case KVM_DEV_HEKI_STATE:
		return heki_device_get_state(dev->kvm, u64_to_user_ptr(attr->addr));
	case KVM_DEV_HEKI_RANGES:
		return heki_device_get_ranges(dev->kvm, u64_to_user_ptr(attr->addr));
	case KVM_DEV_HEKI_PIN:
		return heki_device_get_pin(dev->kvm, u64_to_user_ptr(attr->addr));
	default:
		return -ENXIO;
	}
}

static const struct kvm_device_ops heki_device_ops = {
	.name = "kvm-heki",
	.create = heki_device_create,
	.release = heki_device_release,
	.set_attr = heki_device_set_attr,
	.get_attr = heki_device_get_attr,
	.has_attr = heki_device_has_attr,
};

void kvm_heki_module_init(void)
{
	WARN_ON_ONCE(kvm_register_device_ops(&heki_device_ops, KVM_DEV_TYPE_HEKI));
}

/*
 * debugfs
 */

static int heki_debugfs_show(struct seq_file *m, void *unused)
{
	struct kvm *kvm = m->private;
	const struct kvm_heki *heki;

	guard(srcu)(&kvm->srcu);
	heki = READ_ONCE(kvm->arch.heki);
	if (heki)
		__kvm_heki_show(heki, m);
	return 0;
}

static int heki_debugfs_open(struct inode *inode, struct file *file)
{
	struct kvm *kvm = inode->i_private;
	int ret;

	if (!kvm_get_kvm_safe(kvm))
		return -ENOENT;

	ret = single_open(file, heki_debugfs_show, kvm);
	if (ret)
		kvm_put_kvm(kvm);
	return ret;
}

static int heki_debugfs_release(struct inode *inode, struct file *file)
{
	kvm_put_kvm(inode->i_private);
	return single_release(inode, file);
}

static const struct file_operations heki_debugfs_fops = {
	.owner = THIS_MODULE,
	.open = heki_debugfs_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = heki_debugfs_release,
};

void kvm_heki_create_debugfs(struct kvm *kvm)
{
	if (kvm->arch.heki)
		debugfs_create_file("heki", 0444, kvm->debugfs_dentry, kvm, &heki_debugfs_fops);
}

/*
 * The VM is about to become one that keeps its state from KVM. Whoever asked for
 * it to be opted in is told; the module parameter asked for what can be held.
 */
int kvm_heki_forbid(struct kvm *kvm)
{
	struct kvm_heki *heki = kvm->arch.heki;

	lockdep_assert_held(&kvm->lock);

	if (heki && (kvm->arch.heki_asked || kvm->created_vcpus))
		return -EINVAL;

	kvm->arch.heki_forbidden = true;
	if (heki) {
		debugfs_lookup_and_remove("heki", kvm->debugfs_dentry);
		WRITE_ONCE(kvm->arch.heki, NULL);
		/* Without a vCPU all readers are inside it. */
		synchronize_srcu(&kvm->srcu);
		__kvm_heki_destroy(heki);
		static_branch_dec(&kvm_heki_key);
	}
	return 0;
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(kvm_heki_forbid);

/*
 * Hooks of the MMU
 */

/*
 * SMRAM is memory that only SMM sees: no AS0 slot, or one over other host
 * memory. It belongs to the firmware, not to the guest kernel's seal. What is
 * sealed had an AS0 slot then, and will have one again.
 */
static bool heki_is_smram(struct kvm *kvm, gfn_t gfn)
{
#ifdef CONFIG_KVM_SMM
	struct kvm_memory_slot *normal = __gfn_to_memslot(__kvm_memslots(kvm, 0), gfn);
	struct kvm_memory_slot *smm = __gfn_to_memslot(__kvm_memslots(kvm, 1), gfn);

	if (!normal)
		return !__kvm_heki_denied(kvm->arch.heki, gfn, KVM_HEKI_ACCESS_WRITE);
	return !smm || __gfn_to_hva_memslot(normal, gfn) != __gfn_to_hva_memslot(smm, gfn);
#else
	return false;
#endif
}

/* EPT without paging, and SMM: hardware asks the user-execute bit at CPL 0 too. */
static bool heki_role_is_unpaged(union kvm_mmu_page_role role)
{
	return role.smm || !(role.access & ACC_USER_EXEC_MASK);
}

static unsigned int heki_clamp_exec(union kvm_mmu_page_role role, unsigned int access,
				    bool exec)
{
	/* GMET: a supervisor fetch from a user page faults. */
	if (shadow_nx_mask)
		return exec ? access : access | ACC_USER_MASK;

	if (!exec)
		access &= ~ACC_EXEC_MASK;
	if (heki_role_is_unpaged(role)) {
		access &= ~ACC_USER_EXEC_MASK;
		if (exec)
			access |= ACC_USER_EXEC_MASK;
	}
	return access;
}

unsigned int __kvm_heki_clamp_access(struct kvm *kvm, union kvm_mmu_page_role role,
				     gfn_t gfn, unsigned int access)
{
	const struct kvm_heki *heki = kvm->arch.heki;
	u32 rights;

	if (role.smm && heki_is_smram(kvm, gfn))
		return access;

	rights = __kvm_heki_rights(heki, gfn_round_for_level(gfn, role.level),
				   KVM_PAGES_PER_HPAGE(role.level));
	if (!(rights & HEKI_WRITE))
		access &= ~ACC_WRITE_MASK;

	/* A nested kernel lives in its host's user memory: its execution is not judged. */
	if (!READ_ONCE(heki->exec) || role.guest_mode)
		return access;
	return heki_clamp_exec(role, access, rights & HEKI_EXEC);
}

/* A split gives execution back to small pages (NX huge pages): clamp those too. */
u64 __kvm_heki_clamp_spte(struct kvm *kvm, struct kvm_mmu_page *sp, int index, u64 spte)
{
	union kvm_mmu_page_role role = sp->role;
	gfn_t gfn = sp->gfn + index * KVM_PAGES_PER_HPAGE(role.level);
	unsigned int access = __kvm_heki_clamp_access(kvm, role, gfn, role.access);

	if (!(access & ACC_WRITE_MASK))
		spte &= ~(PT_WRITABLE_MASK | shadow_mmu_writable_mask);
	if (shadow_nx_mask)
		return access & ACC_USER_MASK ? spte | shadow_user_mask : spte;
	if (!(access & ACC_EXEC_MASK))
		spte &= ~shadow_xs_mask;
	if (!(access & ACC_USER_EXEC_MASK))
		spte &= ~shadow_xu_mask;
	return spte;
}

/*
 * MBEC takes every address for a user address while CR0.PG is 0. An unpaged
 * vCPU therefore gets a root of its own, whose role lacks user execution.
 */
unsigned int __kvm_heki_root_access(struct kvm *kvm, union kvm_cpu_role cpu_role,
				    unsigned int access)
{
	if (!READ_ONCE(kvm->arch.heki->exec) || shadow_nx_mask || !cpu_role.base.direct ||
	    cpu_role.base.smm || cpu_role.base.guest_mode)
		return access;
	return access & ~ACC_USER_EXEC_MASK;
}

/* MBEC goes by the page's U bit, which says nothing without paging and in SMM. */
static bool heki_is_supervisor(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault)
{
	return !fault->user || (!shadow_nx_mask && (!is_paging(vcpu) || is_smm(vcpu)));
}

static u32 heki_fault_access(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault)
{
	u32 access = fault->write ? KVM_HEKI_ACCESS_WRITE : 0;

	if (fault->error_code & PFERR_GUEST_PAGE_MASK)
		access |= KVM_HEKI_ACCESS_WALK;
	if (fault->exec && heki_is_supervisor(vcpu, fault) && !is_guest_mode(vcpu))
		access |= KVM_HEKI_ACCESS_FETCH;
	return access;
}

/*
 * #GP: a page fault would look spurious to Linux, whose own tables allow the
 * access, and be retried for ever. Without paging there may be no handler that
 * may run, so the vCPU shuts down.
 */
static void heki_punish(struct kvm_vcpu *vcpu)
{
	if (is_paging(vcpu))
		kvm_inject_gp(vcpu, 0);
	else
		kvm_make_request(KVM_REQ_TRIPLE_FAULT, vcpu);
}

int __kvm_heki_check_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault)
{
	const struct kvm_heki *heki = vcpu->kvm->arch.heki;
	u32 access = heki_fault_access(vcpu, fault);

	if (is_smm(vcpu) && heki_is_smram(vcpu->kvm, fault->gfn))
		return RET_PF_CONTINUE;
	if (!__kvm_heki_denied(heki, fault->gfn, access))
		return RET_PF_CONTINUE;

	/* A prefault has no instruction to blame. */
	if (fault->prefetch)
		return -EFAULT;

	/* Of a nested guest, @addr is its own: what is denied is a page of ours. */
	vcpu->arch.heki.gpa = gfn_to_gpa(fault->gfn) | offset_in_page(fault->addr);
	if (__kvm_heki_deny_access(heki, vcpu, fault->gfn, access))
		heki_punish(vcpu);
	return RET_PF_RETRY;
}

/* The emulator acts for the guest: it may do what the guest's own access may. */
bool __kvm_heki_deny_emulated(struct kvm_vcpu *vcpu, gva_t gva, gpa_t gpa, u32 access,
			      struct x86_exception *exception)
{
	const struct kvm_heki *heki = vcpu->kvm->arch.heki;
	bool denied;

	if (access == KVM_HEKI_ACCESS_FETCH && is_guest_mode(vcpu))
		return false;
	if (is_smm(vcpu) && heki_is_smram(vcpu->kvm, gpa_to_gfn(gpa)))
		return false;
	if (!__kvm_heki_denied(heki, gpa_to_gfn(gpa), access))
		return false;

	vcpu->arch.heki.gpa = gpa;
	vcpu->arch.heki.gva = gva;
	vcpu->arch.heki.has_gva = true;
	denied = __kvm_heki_deny_access(heki, vcpu, gpa_to_gfn(gpa), access);
	vcpu->arch.heki.has_gva = false;
	if (!denied)
		return false;
	if (!is_paging(vcpu))
		kvm_make_request(KVM_REQ_TRIPLE_FAULT, vcpu);
	*exception = (struct x86_exception) {
		.vector = GP_VECTOR,
		.error_code_valid = true,
	};
	return true;
}

/* Without this the write fails as one to a hole, which has the instruction emulated again. */
bool __kvm_heki_deny_write_std(struct kvm_vcpu *vcpu, gva_t gva, unsigned int bytes, u64 pferr,
			       struct x86_exception *exception)
{
	struct kvm_pagewalk *walk = &vcpu->arch.gva_walk;
	struct x86_exception e;
	unsigned int len;
	gpa_t gpa;

	for (; bytes; gva += len, bytes -= len) {
		len = min_t(unsigned int, bytes, PAGE_SIZE - offset_in_page(gva));
		gpa = walk->gva_to_gpa(vcpu, walk, gva, pferr, &e);
		/* The write itself meets this fault. */
		if (gpa == INVALID_GPA)
			return false;
		if (__kvm_heki_deny_emulated(vcpu, gva, gpa, KVM_HEKI_ACCESS_WRITE, exception))
			return true;
	}
	return false;
}

/*
 * KVM's own writers ask here before they touch guest memory for the guest. Some only want to
 * know, so nothing is reported, and in a VM that learns nothing is refused.
 */
bool __kvm_heki_gfn_readonly(const struct kvm_memory_slot *slot, u64 gfn)
{
	const struct kvm_heki *heki = kvm_heki_sealed(slot->arch.kvm);

	return heki && !kvm_heki_learns(slot->arch.kvm, HEKI_CLASS_WRITE) &&
	       __kvm_heki_denied(heki, gfn, KVM_HEKI_ACCESS_WRITE);
}

/* On the account of the vCPU that runs. Without one a VMM asked, which gets the error. */
void __kvm_heki_tell_refusal(const struct kvm_memory_slot *slot, u64 gfn)
{
	struct kvm_vcpu *vcpu = in_task() ? kvm_get_running_vcpu() : NULL;

	if (vcpu && vcpu->kvm == slot->arch.kvm && __kvm_heki_gfn_readonly(slot, gfn))
		__kvm_heki_report_writer(vcpu->kvm->arch.heki, vcpu, gfn);
}

/* The same for the vendor modules, of a page that KVM does not look up again. */
bool __kvm_heki_deny_writer(struct kvm_vcpu *vcpu, gfn_t gfn)
{
	const struct kvm_heki *heki = kvm_heki_sealed(vcpu->kvm);

	guard(srcu)(&vcpu->kvm->srcu);
	if (!heki || kvm_heki_learns(vcpu->kvm, HEKI_CLASS_WRITE) ||
	    !__kvm_heki_denied(heki, gfn, KVM_HEKI_ACCESS_WRITE))
		return false;
	__kvm_heki_report_writer(heki, vcpu, gfn);
	return true;
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(__kvm_heki_deny_writer);

/* Does the VM's seal keep bits of the register, so that writes of it must exit? */
bool __kvm_heki_pins(struct kvm_vcpu *vcpu, u32 reg, u32 index)
{
	const struct kvm_heki *heki = kvm_heki_sealed(vcpu->kvm);

	guard(srcu)(&vcpu->kvm->srcu);
	return heki && __kvm_heki_holds(heki, reg, index);
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(__kvm_heki_pins);

/* The same of any part of a descriptor-table register. */
bool __kvm_heki_pins_table(struct kvm_vcpu *vcpu, u32 reg)
{
	return __kvm_heki_pins(vcpu, reg, 0) || __kvm_heki_pins(vcpu, reg, 1) ||
	       __kvm_heki_pins(vcpu, reg, 2);
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(__kvm_heki_pins_table);

void kvm_heki_set_dt_exits(bool has)
{
	heki_dt_exits = has;
}
EXPORT_SYMBOL_FOR_KVM_INTERNAL(kvm_heki_set_dt_exits);

static bool heki_deny_table(struct kvm_vcpu *vcpu, u32 reg, const struct desc_ptr *dt)
{
	const struct kvm_heki *heki = vcpu->kvm->arch.heki;

	return __kvm_heki_deny_load(heki, vcpu, reg, 0, dt->address) ||
	       __kvm_heki_deny_load(heki, vcpu, reg, 1, dt->size);
}

/* A table without a gate delivers nothing: the way to a triple fault, by which Linux may reset. */
bool __kvm_heki_deny_idt(struct kvm_vcpu *vcpu, const struct desc_ptr *dt)
{
	return dt->size && heki_deny_table(vcpu, HEKI_REG_IDTR, dt);
}

/* While a CPU comes up it loads any GDT, after TR one more, which stays. */
bool __kvm_heki_deny_gdt(struct kvm_vcpu *vcpu, const struct desc_ptr *dt)
{
	bool stays = vcpu->arch.heki.gdt_stays;

	vcpu->arch.heki.gdt_stays = heki_glue_is_up(vcpu);
	return stays && vcpu->arch.heki.gdt_stays && heki_deny_table(vcpu, HEKI_REG_GDTR, dt);
}

/* The base is where the descriptor says, whatever the selector. */
bool __kvm_heki_deny_tr(struct kvm_vcpu *vcpu, u16 selector, const struct desc_struct *desc,
			u32 base3)
{
	const struct kvm_heki *heki = vcpu->kvm->arch.heki;
	u64 base = get_desc_base(desc) | (u64)base3 << 32;
	u32 limit = get_desc_limit(desc);

	if (desc->g)
		limit = limit << PAGE_SHIFT | ~PAGE_MASK;
	return heki_glue_is_up(vcpu) &&
	       (__kvm_heki_deny_load(heki, vcpu, HEKI_REG_TR, 0, base) ||
		__kvm_heki_deny_load(heki, vcpu, HEKI_REG_TR, 1, limit) ||
		__kvm_heki_deny_load(heki, vcpu, HEKI_REG_TR, 2, selector));
}

/* There may be nobody left to take a #GP: the vCPU shuts down. */
bool kvm_heki_shut_down_task_switch(struct kvm_vcpu *vcpu)
{
	if (!__kvm_heki_deny_task_switch(vcpu->kvm->arch.heki, vcpu))
		return false;

	kvm_make_request(KVM_REQ_TRIPLE_FAULT, vcpu);
	return true;
}

static const struct {
	u32 reg;
	u32 index;
} heki_tables[KVM_HEKI_NR_TABLES] = {
	{ HEKI_REG_IDTR, 0 }, { HEKI_REG_IDTR, 1 },
	{ HEKI_REG_GDTR, 0 }, { HEKI_REG_GDTR, 1 },
	{ HEKI_REG_LDTR, 0 },
	{ HEKI_REG_TR, 0 }, { HEKI_REG_TR, 1 }, { HEKI_REG_TR, 2 },
};

static u64 heki_see_table(struct kvm_vcpu *vcpu, int i)
{
	u64 bits, value = 0;

	heki_glue_see_register(vcpu, heki_tables[i].reg, heki_tables[i].index, &bits, &value);
	return value;
}

void __kvm_heki_enter_smm(struct kvm_vcpu *vcpu)
{
	int i;

	for (i = 0; i < KVM_HEKI_NR_TABLES; i++)
		vcpu->arch.heki.tables[i] = heki_see_table(vcpu, i);
	vcpu->arch.heki.cr0 = kvm_read_cr0(vcpu);
	vcpu->arch.heki.cr4 = kvm_read_cr4(vcpu);
	vcpu->arch.heki.has_tables = true;
}

/* Hardware has the pinned bits set all the same, which nobody would notice. */
static bool heki_deny_rsm_cr(struct kvm_vcpu *vcpu, const struct kvm_heki *heki)
{
	if (!kvm_heki_pins_apply(vcpu))
		return false;
	return __kvm_heki_deny_cr(heki, vcpu, HEKI_REG_CR0, vcpu->arch.heki.cr0, kvm_read_cr0(vcpu)) ||
	       __kvm_heki_deny_cr(heki, vcpu, HEKI_REG_CR4, vcpu->arch.heki.cr4, kvm_read_cr4(vcpu));
}

/* With a null TR, as INIT leaves it, all that waits for TR could be loaded: counts as changed. */
static bool heki_deny_rsm_start(struct kvm_vcpu *vcpu, const struct kvm_heki *heki)
{
	const u64 *tables = vcpu->arch.heki.tables;
	int i;

	/* The last is the selector of TR. */
	if (!(tables[KVM_HEKI_NR_TABLES - 1] & ~SEGMENT_RPL_MASK) || heki_glue_is_up(vcpu))
		return false;
	for (i = 0; i < KVM_HEKI_NR_TABLES; i++) {
		if (__kvm_heki_deny_change(heki, vcpu, heki_tables[i].reg, heki_tables[i].index,
					   tables[i], ~tables[i]))
			return true;
	}
	return false;
}

/* The first part that is not what it was. */
static bool heki_deny_rsm(struct kvm_vcpu *vcpu)
{
	const struct kvm_heki *heki = kvm_heki_sealed(vcpu->kvm);
	bool known = vcpu->arch.heki.has_tables;
	int i;

	vcpu->arch.heki.has_tables = false;
	if (!heki || !known)
		return false;
	if (heki_deny_rsm_cr(vcpu, heki))
		return true;
	for (i = 0; i < KVM_HEKI_NR_TABLES; i++) {
		if (__kvm_heki_deny_change(heki, vcpu, heki_tables[i].reg, heki_tables[i].index,
					   vcpu->arch.heki.tables[i], heki_see_table(vcpu, i)))
			return true;
	}
	return heki_deny_rsm_start(vcpu, heki);
}

#ifdef CONFIG_KVM_SMM
/*
 * RSM goes by way of real mode, where no bit is held, to what memory says. What is not
 * to be fails like any RSM that fails: KVM shuts the vCPU down.
 */
int kvm_heki_leave_smm(struct x86_emulate_ctxt *ctxt)
{
	struct kvm_vcpu *vcpu = ctxt->vcpu;
	int ret;

	vcpu->arch.heki.in_rsm = true;
	ret = emulator_leave_smm(ctxt);
	vcpu->arch.heki.in_rsm = false;
	if (ret == X86EMUL_CONTINUE && kvm_heki_opted_in(vcpu->kvm) && heki_deny_rsm(vcpu))
		return X86EMUL_UNHANDLEABLE;
	return ret;
}
#endif

/* After a change of rights or pins, and before a vCPU first runs; on itself. */
void kvm_heki_reload(struct kvm_vcpu *vcpu)
{
	vcpu->arch.heki.has_reset_state = false;
	if (vcpu->arch.heki.is_reset)
		kvm_heki_reset_by_vcpus(vcpu);

	/* A change of text may have begun before there was this vCPU to be kept out. */
	if (vcpu->arch.last_vmentry_cpu == -1) {
		heki_glue_lock_slots(vcpu);
		heki_glue_unlock_slots(vcpu);
	}

	/* An unpaged vCPU moves to the root that fits the allow-list. */
	kvm_mmu_reset_context(vcpu);

	/*
	 * The nested exit reloads CR0 and CR4, and a VM with guests of its own has no other
	 * pins. What the CPU writes for L2 is mapped anew.
	 */
	if (is_guest_mode(vcpu)) {
		kvm_make_request(KVM_REQ_GET_NESTED_STATE_PAGES, vcpu);
		return;
	}

	/* Writes of a pinned MSR exit, of others as before. */
	kvm_x86_call(recalc_intercepts)(vcpu);
	vcpu->arch.heki.gdt_stays = heki_glue_is_up(vcpu);
	kvm_x86_call(set_cr0)(vcpu, kvm_read_cr0(vcpu));
	kvm_x86_call(set_cr4)(vcpu, kvm_read_cr4(vcpu));
}

/*
 * For the Rust floor
 */

int heki_glue_read_guest(struct kvm_vcpu *vcpu, u64 gpa, void *data, u32 len)
{
	return kvm_vcpu_read_guest(vcpu, gpa, data, len);
}

int heki_glue_write_guest(struct kvm_vcpu *vcpu, u64 gpa, const void *data, u32 len)
{
	return kvm_vcpu_write_guest(vcpu, gpa, data, len);
}

/* The bits of an MSR that KVM keeps: SYSENTER is 32 bits wide on AMD. */
static u64 heki_msr_bits(struct kvm_vcpu *vcpu, u32 index)
{
	switch (index) {
	case MSR_IA32_SYSENTER_EIP:
	case MSR_IA32_SYSENTER_ESP:
		return guest_cpuid_is_intel_compatible(vcpu) ? ~0ull : U32_MAX;
	default:
		return ~0ull;
	}
}

/* A register as the guest would read it; false if the vCPU, or the host, has none. */
bool heki_glue_see_register(struct kvm_vcpu *vcpu, u32 reg, u32 index, u64 *bits, u64 *value)
{
	struct kvm_segment seg;
	struct desc_ptr dt;

	*bits = ~0ull;
	switch (reg) {
	case HEKI_REG_XCR0:
		*value = vcpu->arch.xcr0;
		return guest_cpu_cap_has(vcpu, X86_FEATURE_XSAVE);
	case HEKI_REG_IDTR:
		kvm_x86_call(get_idt)(vcpu, &dt);
		*value = index ? dt.size : dt.address;
		return heki_dt_exits;
	case HEKI_REG_GDTR:
		kvm_x86_call(get_gdt)(vcpu, &dt);
		*value = index ? dt.size : dt.address;
		return heki_dt_exits;
	case HEKI_REG_LDTR:
		kvm_get_segment(vcpu, &seg, VCPU_SREG_LDTR);
		*value = seg.selector;
		return heki_dt_exits;
	case HEKI_REG_TR:
		kvm_get_segment(vcpu, &seg, VCPU_SREG_TR);
		*value = index == 2 ? seg.selector : index ? seg.limit : seg.base;
		return heki_dt_exits;
	default:
		*bits = heki_msr_bits(vcpu, index);
		return !__kvm_emulate_msr_read(vcpu, index, value);
	}
}

/* INIT leaves TR null, which LTR cannot: a kernel loads it once on each CPU. */
bool heki_glue_is_up(struct kvm_vcpu *vcpu)
{
	struct kvm_segment tr;

	kvm_get_segment(vcpu, &tr, VCPU_SREG_TR);
	return tr.selector & ~SEGMENT_RPL_MASK;
}

u64 heki_glue_read_cr(struct kvm_vcpu *vcpu, u32 reg)
{
	return reg == HEKI_REG_CR0 ? kvm_read_cr0(vcpu) : kvm_read_cr4(vcpu);
}

/* slots_lock is never taken inside kvm->srcu (Documentation/virt/kvm/locking.rst). */
struct kvm *heki_glue_lock_slots(struct kvm_vcpu *vcpu)
{
	kvm_vcpu_srcu_read_unlock(vcpu);
	mutex_lock(&vcpu->kvm->slots_lock);
	return vcpu->kvm;
}

void heki_glue_unlock_slots(struct kvm_vcpu *vcpu)
{
	mutex_unlock(&vcpu->kvm->slots_lock);
	kvm_vcpu_srcu_read_lock(vcpu);
}

/* Is every page of the range guest memory? Walks slots, not pages. slots_lock held. */
bool heki_glue_is_memory(struct kvm *kvm, u64 gfn, u64 nr_pages)
{
	while (nr_pages) {
		struct kvm_memory_slot *slot = gfn_to_memslot(kvm, gfn);
		u64 covered;

		if (!kvm_is_visible_memslot(slot))
			return false;
		covered = min(nr_pages, slot->base_gfn + slot->npages - gfn);
		gfn += covered;
		nr_pages -= covered;
	}
	return true;
}

/*
 * A change of rights in [start, end): begin, publish, end. In between, no fault
 * can install a mapping that was computed from the old rights: neither of a frame
 * in the range nor a large one around it.
 */
void heki_glue_begin_change(struct kvm *kvm, gfn_t start, gfn_t end)
{
	const u64 largest = KVM_PAGES_PER_HPAGE(KVM_MAX_HUGEPAGE_LEVEL);

	lockdep_assert_held(&kvm->slots_lock);

	write_lock(&kvm->mmu_lock);
	kvm_mmu_invalidate_start(kvm);
	kvm_mmu_invalidate_range_add(kvm, round_down(start, largest), round_up(end, largest));
	write_unlock(&kvm->mmu_lock);
}

/* KVM's cached host addresses check their rights again when the generation moves. */
static void heki_bump_generation(struct kvm *kvm)
{
	int as_id;

	for (as_id = 0; as_id < kvm_arch_nr_memslot_as_ids(kvm); as_id++) {
		struct kvm_memslots *slots = __kvm_memslots(kvm, as_id);

		WRITE_ONCE(slots->generation, slots->generation + KVM_MAX_NR_ADDRESS_SPACES);
		kvm_arch_memslots_updated(kvm, slots->generation);
	}
}

/*
 * KVM's private slots (APIC access page, ...) as well: what was mapped before could be run.
 * The zap covers a gfn in all address spaces; what only SMM sees is exempt.
 */
static void heki_zap_guest_memory(struct kvm *kvm, gfn_t start, gfn_t end)
{
	struct kvm_memory_slot *slot;
	int bkt;

	kvm_for_each_memslot(slot, bkt, __kvm_memslots(kvm, 0)) {
		gfn_t first = max(start, slot->base_gfn);
		gfn_t last = min(end, slot->base_gfn + slot->npages);

		if (first < last)
			kvm_zap_gfn_range(kvm, first, last);
	}
}

static bool heki_is_hypervisor(struct kvm *kvm)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;

	kvm_for_each_vcpu(i, vcpu, kvm) {
		if (guest_cpu_cap_has(vcpu, X86_FEATURE_VMX) ||
		    guest_cpu_cap_has(vcpu, X86_FEATURE_SVM))
			return true;
	}
	return false;
}

void heki_glue_end_change(struct kvm *kvm, gfn_t start, gfn_t end)
{
	heki_zap_guest_memory(kvm, start, end);
	kvm_flush_remote_tlbs(kvm);

	/* What KVM mapped for a nested guest is mapped anew. */
	if (heki_is_hypervisor(kvm))
		kvm_make_all_cpus_request(kvm, KVM_REQ_HEKI);

	write_lock(&kvm->mmu_lock);
	kvm_mmu_invalidate_end(kvm);
	write_unlock(&kvm->mmu_lock);

	heki_bump_generation(kvm);
}

/* After a change of pins or of the allow-list. */
void heki_glue_reload_vcpus(struct kvm *kvm)
{
	kvm_make_all_cpus_request(kvm, KVM_REQ_HEKI);
}

/* Until here a reader may still use a host address or a map from before. */
void heki_glue_wait_for_readers(struct kvm *kvm)
{
	synchronize_srcu_expedited(&kvm->srcu);
}

void heki_glue_trace_query(struct kvm_vcpu *vcpu, long ret)
{
	trace_kvm_heki_query(vcpu->vcpu_id, kvm_rip_read(vcpu), ret);
}

void heki_glue_trace_seal(struct kvm_vcpu *vcpu, u32 nr_ranges, u32 nr_pins, u32 flags,
			  const char *why, u32 why_len, long ret)
{
	trace_kvm_heki_seal(vcpu->vcpu_id, kvm_rip_read(vcpu), nr_ranges, nr_pins, flags,
			    why, why_len, ret);
}

void heki_glue_trace_patch(struct kvm_vcpu *vcpu, u32 op, u32 nr, const char *why,
			   u32 why_len, long ret)
{
	trace_kvm_heki_patch(vcpu->vcpu_id, kvm_rip_read(vcpu), op, nr, why, why_len, ret);
}

void heki_glue_trace_deny(struct kvm_vcpu *vcpu, u32 access, u64 gfn, u64 va, u32 reg,
			  u32 index, u64 bits, u32 reason, bool learned)
{
	trace_kvm_heki_deny(vcpu->vcpu_id, kvm_rip_read(vcpu), access, gfn, va, reg, index,
			    bits, reason, learned);
}

static u64 *heki_counter(struct kvm_vcpu *vcpu, u32 counter)
{
	u64 *const counters[] = {
		[KVM_HEKI_COUNT_QUERY] = &vcpu->stat.heki_query,
		[KVM_HEKI_COUNT_SEAL] = &vcpu->stat.heki_seal,
		[KVM_HEKI_COUNT_REFUSED] = &vcpu->stat.heki_refused,
		[KVM_HEKI_COUNT_WRITE] = &vcpu->stat.heki_denied_write,
		[KVM_HEKI_COUNT_EXEC] = &vcpu->stat.heki_denied_exec,
		[KVM_HEKI_COUNT_CR] = &vcpu->stat.heki_denied_cr,
		[KVM_HEKI_COUNT_PATCH] = &vcpu->stat.heki_patch,
		[KVM_HEKI_COUNT_PATCHED] = &vcpu->stat.heki_patched,
		[KVM_HEKI_COUNT_GRANT] = &vcpu->stat.heki_grant,
		[KVM_HEKI_COUNT_DENIED_PATCH] = &vcpu->stat.heki_denied_patch,
		[KVM_HEKI_COUNT_MSR] = &vcpu->stat.heki_denied_msr,
	};

	static_assert(ARRAY_SIZE(counters) == HEKI_NR_COUNTERS);
	return counter < ARRAY_SIZE(counters) ? counters[counter] : NULL;
}

void heki_glue_count(struct kvm_vcpu *vcpu, u32 counter, u64 nr)
{
	u64 *count = heki_counter(vcpu, counter);

	if (count)
		*count += nr;
}

bool heki_glue_get_counters(struct kvm *kvm, u32 index, struct heki_counters *counters)
{
	struct kvm_vcpu *vcpu = kvm_get_vcpu(kvm, index);
	u32 i;

	if (!vcpu)
		return false;
	counters->vcpu = vcpu->vcpu_id;
	for (i = 0; i < HEKI_NR_COUNTERS; i++)
		counters->value[i] = *heki_counter(vcpu, i);
	return true;
}

bool heki_glue_has_vcpu(struct kvm *kvm, u32 id)
{
	return id < KVM_MAX_VCPU_IDS && kvm_get_vcpu_by_id(kvm, id);
}

void heki_glue_set_counters(struct kvm *kvm, const struct heki_counters *counters)
{
	struct kvm_vcpu *vcpu = kvm_get_vcpu_by_id(kvm, counters->vcpu);
	u32 i;

	for (i = 0; vcpu && i < HEKI_NR_COUNTERS; i++)
		*heki_counter(vcpu, i) = counters->value[i];
}

/*
 * A nested guest's execution is not judged, so a guest that has VMX or SVM could
 * run anything in a guest of its own.
 */
bool heki_glue_can_hold_exec(struct kvm_vcpu *vcpu)
{
	return kvm_x86_call(tdp_has_smep)(vcpu->kvm) && !heki_is_hypervisor(vcpu->kvm);
}

/* Neither are the host-state areas and the MSR lists that it loads registers from. */
bool heki_glue_can_hold_msrs(struct kvm_vcpu *vcpu)
{
	return !heki_is_hypervisor(vcpu->kvm);
}

bool heki_glue_log_allowed(struct kvm_vcpu *vcpu)
{
	return __ratelimit(&vcpu->kvm->arch.heki->log);
}

int heki_glue_pid(struct kvm_vcpu *vcpu)
{
	return vcpu->kvm->userspace_pid;
}
