// SPDX-License-Identifier: GPL-2.0
/*
 * KVM as a confused deputy: a guest names a sealed page to one of KVM's own
 * writers. It gets the error of a page that is not there, or none, and no byte
 * changes. The same writer does write where nothing is sealed, or the test fails.
 *
 * heki_emulator_test has the instruction emulator and the writers that need no
 * more than one MSR or hypercall, heki_nested_test those for nested guests.
 */
#include <asm/kvm_para.h>

#include "apic.h"
#include "heki.h"
#include "hyperv.h"
#include "kvm_test_harness.h"
#include "smm.h"

#define TARGET		0
#define OPEN		1

#define EOI_VECTOR	0x30
#define APF_VECTOR	0x31
#define MESSAGE_SINT	1
#define STIMER_AUTO	(1 << 3)
#define XEN_MSR		0x40000200

/*
 * What the guest does. Each returns the vector of the first fault.
 */

static u64 guest_enable_apic(u64 *arg)
{
	x2apic_enable();
	return 0;
}

static void guest_eoi_handler(struct ex_regs *regs)
{
}

/* KVM marks the interrupt in the guest's page when it enters the handler. */
static u64 guest_interrupt_itself(u64 *arg)
{
	x2apic_write_reg(APIC_ICR, APIC_DEST_SELF | APIC_INT_ASSERT | EOI_VECTOR);
	asm volatile("sti; nop; cli" : : : "memory");
	x2apic_write_reg(APIC_EOI, 0);
	return 0;
}

/* A timer that is long due: KVM puts a message into the page of messages. */
static u64 guest_start_stimer(u64 *arg)
{
	u8 vector = wrmsr_safe(HV_X64_MSR_STIMER0_CONFIG, STIMER_AUTO | MESSAGE_SINT << 16);

	return vector ?: wrmsr_safe(HV_X64_MSR_STIMER0_COUNT, 1);
}

/*
 * On the host. aim() names the page to a writer, and returns the vector that the
 * guest got, or the errno of the VMM; prod() makes the writer write once more.
 */

/* SynIC tells the VMM of each change. */
static u64 call_hyperv(struct heki_vm *h, u64 (*fn)(u64 *arg), u64 arg0, u64 arg1)
{
	struct kvm_vcpu *vcpu = h->vcpu[0];

	heki_prepare_call(vcpu, fn, (u64[HEKI_NR_ARGS]){ arg0, arg1 });
	do {
		vcpu_run(vcpu);
	} while (vcpu->run->exit_reason == KVM_EXIT_HYPERV);
	return heki_finish_call(vcpu);
}

static u64 set_hyperv_msr(struct heki_vm *h, u32 msr, u64 value)
{
	return call_hyperv(h, guest_wrmsr, msr, value);
}

static u64 set_msr(struct heki_vm *h, u32 msr, u64 value)
{
	return heki_call(h->vcpu[0], guest_wrmsr, msr, value);
}

static u64 aim_wall_clock(struct heki_vm *h, gpa_t gpa)
{
	return set_msr(h, MSR_KVM_WALL_CLOCK, gpa);
}

static u64 aim_system_time(struct heki_vm *h, gpa_t gpa)
{
	return set_msr(h, MSR_KVM_SYSTEM_TIME, gpa | KVM_MSR_ENABLED);
}

static void prod_clock(struct heki_vm *h)
{
	struct kvm_clock_data clock = {};

	vm_ioctl(h->vm, KVM_GET_CLOCK, &clock);
	clock.flags = 0;
	vm_ioctl(h->vm, KVM_SET_CLOCK, &clock);
}

/* Turning it on wakes all that wait: KVM writes the token, once the last one is gone. */
static u64 aim_async_pf(struct heki_vm *h, gpa_t gpa)
{
	heki_call(h->vcpu[0], guest_enable_apic);
	set_msr(h, MSR_KVM_ASYNC_PF_INT, APF_VECTOR);
	return set_msr(h, MSR_KVM_ASYNC_PF_EN,
		       gpa | KVM_ASYNC_PF_ENABLED | KVM_ASYNC_PF_DELIVERY_AS_INT);
}

static u64 aim_pv_eoi(struct heki_vm *h, gpa_t gpa)
{
	heki_call(h->vcpu[0], guest_enable_apic);
	return set_msr(h, MSR_KVM_PV_EOI_EN, gpa | KVM_MSR_ENABLED);
}

static void prod_pv_eoi(struct heki_vm *h)
{
	heki_call(h->vcpu[0], guest_interrupt_itself);
}

static u64 aim_event_page(struct heki_vm *h, gpa_t gpa)
{
	return set_hyperv_msr(h, HV_X64_MSR_SIEFP, gpa | 1);
}

static u64 aim_message_page(struct heki_vm *h, gpa_t gpa)
{
	return set_hyperv_msr(h, HV_X64_MSR_SIMP, gpa | 1);
}

static void prod_stimer(struct heki_vm *h)
{
	TEST_ASSERT(!call_hyperv(h, guest_start_stimer, 0, 0), "No synthetic timer");
}

static u64 aim_vp_assist(struct heki_vm *h, gpa_t gpa)
{
	return set_hyperv_msr(h, HV_X64_MSR_VP_ASSIST_PAGE, gpa | 1);
}

static u64 aim_tsc_page(struct heki_vm *h, gpa_t gpa)
{
	return set_hyperv_msr(h, HV_X64_MSR_REFERENCE_TSC, gpa | 1);
}

static u64 aim_xen_hypercalls(struct heki_vm *h, gpa_t gpa)
{
	return set_msr(h, XEN_MSR, gpa);
}

/* The guest asks for the next four by a hypercall that its VMM serves. */
static u64 aim_xen_shared_info(struct heki_vm *h, gpa_t gpa)
{
	struct kvm_xen_hvm_attr attr = {
		.type = KVM_XEN_ATTR_TYPE_SHARED_INFO,
		.u.shared_info.gfn = gpa >> PAGE_SHIFT,
	};

	return __vm_ioctl(h->vm, KVM_XEN_HVM_SET_ATTR, &attr) ? errno : 0;
}

static u64 set_xen_vcpu(struct heki_vm *h, u16 type, gpa_t gpa)
{
	struct kvm_xen_vcpu_attr attr = { .type = type, .u.gpa = gpa };

	return __vcpu_ioctl(h->vcpu[0], KVM_XEN_VCPU_SET_ATTR, &attr) ? errno : 0;
}

static u64 aim_xen_vcpu_info(struct heki_vm *h, gpa_t gpa)
{
	return set_xen_vcpu(h, KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO, gpa);
}

static u64 aim_xen_time(struct heki_vm *h, gpa_t gpa)
{
	return set_xen_vcpu(h, KVM_XEN_VCPU_ATTR_TYPE_VCPU_TIME_INFO, gpa);
}

static u64 aim_xen_runstate(struct heki_vm *h, gpa_t gpa)
{
	return set_xen_vcpu(h, KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADDR, gpa);
}

FIXTURE(deputy) {
	struct heki_vm h;
};

FIXTURE_VARIANT(deputy) {
	u64 (*aim)(struct heki_vm *h, gpa_t gpa);
	void (*prod)(struct heki_vm *h);
	int refusal;	/* what aim() returns */
	u64 first;	/* what the page begins with, if it matters */
	bool once;	/* it writes only when it is aimed */
	bool by_vmm;	/* no vCPU aims it: the VMM hears of the refusal */
	bool hyperv;
	bool xen;
};

#define DEPUTY(_name, args...)	FIXTURE_VARIANT_ADD(deputy, _name) { .aim = aim_##_name, args }

DEPUTY(wall_clock, .once = true);
DEPUTY(system_time, .prod = prod_clock);
/* KVM writes no token over another. */
DEPUTY(async_pf, .once = true, .refusal = GP_VECTOR, .first = (u32)HEKI_CALM);
DEPUTY(pv_eoi, .prod = prod_pv_eoi, .refusal = GP_VECTOR);
DEPUTY(event_page, .once = true, .refusal = GP_VECTOR, .hyperv = true);
DEPUTY(message_page, .prod = prod_stimer, .refusal = GP_VECTOR, .hyperv = true);
DEPUTY(vp_assist, .once = true, .refusal = GP_VECTOR, .hyperv = true);
DEPUTY(tsc_page, .prod = prod_clock, .hyperv = true);
DEPUTY(xen_hypercalls, .once = true, .refusal = GP_VECTOR, .xen = true);
DEPUTY(xen_shared_info, .once = true, .by_vmm = true, .refusal = EFAULT, .xen = true);
DEPUTY(xen_vcpu_info, .prod = prod_clock, .refusal = EFAULT, .xen = true);
DEPUTY(xen_time, .prod = prod_clock, .refusal = EFAULT, .xen = true);
DEPUTY(xen_runstate, .refusal = EFAULT, .xen = true);

/* Without interception of hypercalls: those of KVM go on. */
static void set_xen_up(struct heki_vm *h)
{
	static u8 hypercalls[PAGE_SIZE];
	struct kvm_xen_hvm_config config = {
		.msr = XEN_MSR,
		.blob_addr_64 = (u64)hypercalls,
		.blob_size_64 = 1,
	};

	memset(hypercalls, 0xcc, sizeof(hypercalls));
	vm_ioctl(h->vm, KVM_XEN_HVM_CONFIG, &config);
}

static void create_vm(struct heki_vm *h, const FIXTURE_VARIANT(deputy) *variant)
{
	heki_vm_create(h, 1);
	vm_install_exception_handler(h->vm, EOI_VECTOR, guest_eoi_handler);
	if (variant->hyperv) {
		vcpu_enable_cap(h->vcpu[0], KVM_CAP_HYPERV_SYNIC, 0);
		vcpu_set_hv_cpuid(h->vcpu[0]);
	}
	if (variant->xen)
		set_xen_up(h);
}

FIXTURE_SETUP(deputy)
{
	if (variant->hyperv && !kvm_has_cap(KVM_CAP_HYPERV_SYNIC))
		SKIP(return, "KVM without CONFIG_KVM_HYPERV");
	if (variant->xen && !(kvm_check_cap(KVM_CAP_XEN_HVM) & KVM_XEN_HVM_CONFIG_RUNSTATE))
		SKIP(return, "KVM without CONFIG_KVM_XEN");
	create_vm(&self->h, variant);
}

FIXTURE_TEARDOWN(deputy)
{
	if (self->h.vm)
		heki_vm_free(&self->h);
}

static u64 calm_at(const FIXTURE_VARIANT(deputy) *variant, int i)
{
	return !i && variant->first ? variant->first : HEKI_CALM;
}

static void calm(struct heki_vm *h, const FIXTURE_VARIANT(deputy) *variant)
{
	heki_calm_page(h, TARGET);
	heki_poke(h, HEKI_PAGE(TARGET), calm_at(variant, 0));
}

static bool is_calm(struct heki_vm *h, const FIXTURE_VARIANT(deputy) *variant)
{
	int i;

	for (i = 0; i < PAGE_SIZE; i += sizeof(u64)) {
		if (heki_peek(h, HEKI_PAGE(TARGET) + i) != calm_at(variant, i))
			return false;
	}
	return true;
}

static void prod(struct heki_vm *h, const FIXTURE_VARIANT(deputy) *variant)
{
	int i;

	for (i = 0; i < 3; i++) {
		if (variant->prod)
			variant->prod(h);
		heki_call(h->vcpu[0], guest_read, HEKI_PAGE(OPEN));
	}
}

/* In a VM of its own: with Hyper-V turned on, a guest has no other hypercalls. */
static bool writes_when_unsealed(const FIXTURE_VARIANT(deputy) *variant)
{
	struct heki_vm h;
	bool wrote;

	create_vm(&h, variant);
	calm(&h, variant);
	TEST_ASSERT(!variant->aim(&h, HEKI_PAGE(TARGET)), "An open page is refused");
	prod(&h, variant);
	wrote = !is_calm(&h, variant);
	heki_vm_free(&h);
	return wrote;
}

HEKI_TEST(deputy, does_not_write_a_sealed_page)
{
	struct heki_vm *h = &self->h;
	u64 denied;

	ASSERT_TRUE(writes_when_unsealed(variant));
	heki_seal_page(h, TARGET);
	calm(h, variant);
	EXPECT_EQ(variant->refusal, variant->aim(h, HEKI_PAGE(TARGET)));
	prod(h, variant);
	EXPECT_TRUE(is_calm(h, variant));

	denied = vcpu_get_stat(h->vcpu[0], heki_denied_write);
	if (variant->once) {
		EXPECT_EQ(!variant->by_vmm, denied);
	} else {
		EXPECT_LE(1, denied);
	}
}

/* KVM knows the page from before. */
HEKI_TEST(deputy, stops_when_its_page_is_sealed)
{
	struct heki_vm *h = &self->h;

	if (variant->once)
		SKIP(return, "it writes only when it is told where");
	calm(h, variant);
	ASSERT_EQ(0, variant->aim(h, HEKI_PAGE(TARGET)));
	calm(h, variant);
	prod(h, variant);
	ASSERT_FALSE(is_calm(h, variant));

	heki_seal_page(h, TARGET);
	calm(h, variant);
	prod(h, variant);
	EXPECT_TRUE(is_calm(h, variant));
	EXPECT_LE(1, vcpu_get_stat(h->vcpu[0], heki_denied_write));
}

/*
 * SMM: its save area lies where the guest's firmware says
 */

#define SMM_SLOT	(1 << 16 | HEKI_TEST_SLOT)
#define SMBASE		(HEKI_PAGE(16) - 0x8000)
#define SAVE_AREA	23	/* the page of SMBASE + 0xfe00 */

FIXTURE(smm) {
	struct heki_vm h;
};

/* What SMM sees is the same memory. */
FIXTURE_SETUP(smm)
{
	static const u8 rsm[] = { 0x0f, 0xaa };
	struct heki_vm *h = &self->h;

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM without CONFIG_KVM_SMM");
	heki_vm_create(h, 1);
	vm_set_user_memory_region(h->vm, SMM_SLOT, 0, HEKI_TEST_GPA, HEKI_TEST_PAGES * PAGE_SIZE,
				  heki_hva(h, HEKI_TEST_GPA));
	vcpu_set_msr(h->vcpu[0], MSR_IA32_SMBASE, SMBASE);
	memcpy(heki_hva(h, SMBASE + 0x8000), rsm, sizeof(rsm));
	heki_calm_page(h, SAVE_AREA);
}

FIXTURE_TEARDOWN(smm)
{
	if (self->h.vm)
		heki_vm_free(&self->h);
}

HEKI_TEST(smm, saves_its_state_in_open_memory)
{
	struct heki_vm *h = &self->h;

	heki_seal_page(h, TARGET);
	inject_smi(h->vcpu[0]);
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_read, HEKI_PAGE(OPEN)));
	EXPECT_FALSE(heki_page_is_calm(h, SAVE_AREA));
}

/* SMM without a saved state could not be left: KVM ends the VM. */
HEKI_TEST(smm, does_not_save_it_in_sealed_memory)
{
	struct heki_vm *h = &self->h;

	heki_seal_page(h, SAVE_AREA);
	inject_smi(h->vcpu[0]);
	heki_prepare_call(h->vcpu[0], guest_read, (u64[HEKI_NR_ARGS]){ HEKI_PAGE(OPEN) });
	EXPECT_EQ(-1, _vcpu_run(h->vcpu[0]));
	EXPECT_EQ(EIO, errno);
	EXPECT_TRUE(heki_page_is_calm(h, SAVE_AREA));
	EXPECT_EQ(1, vcpu_get_stat(h->vcpu[0], heki_denied_write));
}

static void put_smm_write(struct heki_vm *h, u64 nr)
{
	struct {
		u8 insn[4];	/* movl $value, gpa */
		u32 gpa;
		u32 value;
		u8 rsm[2];
	} __packed code = {
		.insn = { 0x66, 0x67, 0xc7, 0x05 },
		.gpa = HEKI_PAGE(nr),
		.value = (u32)HEKI_ATTACK,
		.rsm = { 0x0f, 0xaa },
	};

	memcpy(heki_hva(h, SMBASE + 0x8000), &code, sizeof(code));
}

/* Runs SMM while only it has a slot for the memory; returns the exit. */
static u32 run_smm_alone(struct heki_vm *h)
{
	u64 len = HEKI_TEST_PAGES * PAGE_SIZE;

	vm_set_user_memory_region(h->vm, HEKI_TEST_SLOT, 0, HEKI_TEST_GPA, 0, NULL);
	inject_smi(h->vcpu[0]);
	heki_prepare_call(h->vcpu[0], guest_read, (u64[HEKI_NR_ARGS]){ (u64)guest_read });
	vcpu_run(h->vcpu[0]);
	vm_set_user_memory_region(h->vm, HEKI_TEST_SLOT, 0, HEKI_TEST_GPA, len,
				  heki_hva(h, HEKI_TEST_GPA));
	return h->vcpu[0]->run->exit_reason;
}

/* What is sealed does not become SMRAM when its slot is away. */
HEKI_TEST(smm, writes_no_sealed_page_that_only_it_has)
{
	struct heki_vm *h = &self->h;

	put_smm_write(h, TARGET);
	heki_calm_page(h, TARGET);
	EXPECT_EQ(KVM_EXIT_IO, run_smm_alone(h));
	EXPECT_EQ(0, heki_finish_call(h->vcpu[0]));
	EXPECT_FALSE(heki_page_is_calm(h, TARGET));

	heki_calm_page(h, TARGET);
	heki_seal_page(h, TARGET);
	EXPECT_EQ(KVM_EXIT_SHUTDOWN, run_smm_alone(h));
	EXPECT_TRUE(heki_page_is_calm(h, TARGET));
	EXPECT_EQ(1, vcpu_get_stat(h->vcpu[0], heki_denied_write));
}

/*
 * Accessed and dirty bits, which the emulator sets in the guest's page tables
 */

FIXTURE(tables) {
	struct heki_vm h;
	u64 *pte;
	gva_t alias;
};

FIXTURE_SETUP(tables)
{
	if (!kvm_is_forced_emulation_enabled())
		SKIP(return, "kvm.force_emulation_prefix is off and cannot be set");
	heki_vm_create(&self->h, 1);
	self->alias = heki_map_alias(&self->h, OPEN);
	self->pte = vm_get_pte(self->h.vm, self->alias);
	*self->pte &= ~(PTE_ACCESSED_MASK(&self->h.vm->mmu) | PTE_DIRTY_MASK(&self->h.vm->mmu));
}

FIXTURE_TEARDOWN(tables)
{
	if (self->h.vm)
		heki_vm_free(&self->h);
}

HEKI_TEST(tables, get_their_bits_while_they_are_open)
{
	struct heki_vm *h = &self->h;
	u64 before = *self->pte;

	heki_seal_page(h, TARGET);
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_fep_write, self->alias, HEKI_ATTACK));
	EXPECT_NE(before, READ_ONCE(*self->pte));
}

HEKI_TEST(tables, get_no_bits_when_they_are_sealed)
{
	struct heki_vm *h = &self->h;
	u64 before = *self->pte;

	heki_add_range(heki_begin_request(h, 0), addr_hva2gpa(h->vm, self->pte) & PAGE_MASK,
		       PAGE_SIZE, 0, HEKI_KIND_OTHER);
	heki_seal(h);
	heki_call(h->vcpu[0], guest_fep_write, self->alias, HEKI_ATTACK);
	EXPECT_EQ(before, READ_ONCE(*self->pte));
}

/*
 * Device models are deputies too. The VMM learns what they must leave alone.
 */

#define ROOM		2

struct told {
	struct heki_ranges header;
	struct heki_range range[ROOM];
};

FIXTURE(ranges) {
	struct heki_vm h;
};

FIXTURE_SETUP(ranges)
{
	heki_vm_create(&self->h, 1);
}

FIXTURE_TEARDOWN(ranges)
{
	heki_vm_free(&self->h);
}

static int get_ranges(struct heki_vm *h, struct told *told, u32 room)
{
	memset(told, 0xff, sizeof(*told));
	told->header = (struct heki_ranges){ .nr = room };
	return __kvm_device_attr_get(h->device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_RANGES, told) ?
	       errno : 0;
}

static void seal_two_ranges(struct heki_vm *h)
{
	struct heki_seal *req = heki_begin_request(h, 0);

	heki_add_range(req, HEKI_PAGE(6), PAGE_SIZE, HEKI_WRITE, HEKI_KIND_OTHER);
	heki_add_range(req, HEKI_PAGE(2), 2 * PAGE_SIZE, HEKI_EXEC, HEKI_KIND_TEXT);
	heki_seal(h);
}

HEKI_TEST(ranges, are_told_as_they_were_sealed)
{
	struct heki_vm *h = &self->h;
	struct told told;

	EXPECT_EQ(0, get_ranges(h, &told, ROOM));
	EXPECT_EQ(0, told.header.nr);
	EXPECT_EQ(HEKI_STATE_OPEN, told.header.state);

	seal_two_ranges(h);
	EXPECT_EQ(0, get_ranges(h, &told, ROOM));
	EXPECT_EQ(2, told.header.nr);
	EXPECT_EQ(HEKI_STATE_SEALED, told.header.state);
	EXPECT_EQ(HEKI_PAGE(2), told.range[0].gpa);
	EXPECT_EQ(2 * PAGE_SIZE, told.range[0].len);
	EXPECT_EQ(HEKI_EXEC, told.range[0].rights);
	EXPECT_EQ(HEKI_KIND_TEXT, told.range[0].kind);
	EXPECT_EQ(HEKI_PAGE(6), told.range[1].gpa);
	EXPECT_EQ(PAGE_SIZE, told.range[1].len);
	/* Without an allow-list all memory runs. */
	EXPECT_EQ(HEKI_RIGHTS, told.range[1].rights);

	kvm_device_attr_set(h->device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_RESET, NULL);
	EXPECT_EQ(0, get_ranges(h, &told, ROOM));
	EXPECT_EQ(0, told.header.nr);
	EXPECT_EQ(HEKI_STATE_OPEN, told.header.state);
}

HEKI_TEST(ranges, tell_how_much_room_they_need)
{
	struct heki_vm *h = &self->h;
	struct told told;

	seal_two_ranges(h);
	EXPECT_EQ(E2BIG, get_ranges(h, &told, 1));
	EXPECT_EQ(2, told.header.nr);
	EXPECT_EQ(~0ull, told.range[0].gpa);
	EXPECT_EQ(E2BIG, get_ranges(h, &told, 0));
	EXPECT_EQ(2, told.header.nr);
	EXPECT_EQ(HEKI_STATE_SEALED, told.header.state);
	/* More room than can ever be needed is none that KVM would write. */
	EXPECT_EQ(0, get_ranges(h, &told, ~0u));
	EXPECT_EQ(2, told.header.nr);
}

HEKI_TEST(ranges, of_a_bad_request_are_not_told)
{
	struct told told = { .header = { .nr = ROOM, .state = HEKI_STATE_SEALED } };
	struct heki_vm *h = &self->h;

	EXPECT_EQ(0, __kvm_has_device_attr(h->device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_RANGES));
	EXPECT_EQ(-1, __kvm_device_attr_get(h->device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_RANGES,
					    &told));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, __kvm_device_attr_get(h->device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_RANGES,
					    NULL));
	EXPECT_EQ(EFAULT, errno);
	EXPECT_EQ(-1, __kvm_device_attr_set(h->device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_RANGES,
					    &told));
	EXPECT_EQ(ENXIO, errno);
}

int main(int argc, char *argv[])
{
	heki_require();
	return heki_run_with_forced_emulation(test_harness_run, argc, argv);
}
