// SPDX-License-Identifier: GPL-2.0
/*
 * A guest that is a hypervisor (L1) seals itself; its own guest (L2) writes what
 * L1 sealed, with and without nested paging, and what L1 lends the CPU for its
 * nested state (VMCS, VMCB, host state) is no way around either.
 *
 * The host side drives: one call sets L2 up, one call runs it once, and between
 * them L1 seals. L2 does the same attack each time it runs.
 */
#include "kvm_test_harness.h"
#include "heki.h"
#include "hyperv.h"
#include "smm.h"
#include "svm_util.h"
#include "vmx.h"

#define SEALED		0
#define OPEN		1
#define READ_ONLY	4
#define USER		5

#define L2_FAILED	0xdeadull	/* L2 did not come back the way it should */
#define IN_L2		0x12		/* what L2 says when it stops on its way */

/* What L2 does, and what came of it. The guest's copy is the one in use. */
static struct {
	u64 (*fn)(u64 *arg);
	u64 arg[HEKI_NR_ARGS];
	u64 ret;
	u64 launched;
} l2;

static void back_to_l1(void)
{
	if (host_cpu_is_amd_compatible)
		vmmcall();
	else
		vmcall();
}

static void l2_main(void)
{
	for (;;) {
		l2.ret = l2.fn(l2.arg);
		back_to_l1();
	}
}

/* arg[0]: struct vmx_pages or struct svm_test_data */
static u64 guest_set_l2_up(u64 *arg)
{
	if (host_cpu_is_amd_compatible) {
		generic_svm_setup((void *)arg[0], l2_main);
		return 0;
	}
	GUEST_ASSERT(prepare_for_vmx_operation((void *)arg[0]));
	GUEST_ASSERT(load_vmcs((void *)arg[0]));
	prepare_vmcs((void *)arg[0], l2_main);
	return 0;
}

/* VMCALL and VMMCALL are three bytes long. */
static bool run_l2_vmx(void)
{
	int failed = l2.launched ? vmresume() : vmlaunch();

	l2.launched = true;
	return !failed && vmreadz(VM_EXIT_REASON) == EXIT_REASON_VMCALL &&
	       !vmwrite(GUEST_RIP, vmreadz(GUEST_RIP) + 3);
}

static bool run_l2_svm(struct svm_test_data *svm)
{
	run_guest(svm->vmcb, svm->vmcb_gpa);
	svm->vmcb->save.rip += 3;
	return svm->vmcb->control.exit_code == SVM_EXIT_VMMCALL;
}

/* arg[0] as above; what L2's function returned. */
static u64 guest_run_l2(u64 *arg)
{
	bool ok = host_cpu_is_amd_compatible ? run_l2_svm((void *)arg[0]) : run_l2_vmx();

	return ok ? l2.ret : L2_FAILED;
}

/*
 * On the host
 */

struct l1 {
	struct heki_vm h;
	gva_t nested;
	u64 cr0;	/* bits that it has set and can pin */
	u64 cr4;
};

static void prepare_l2(struct l1 *l1, u64 (*fn)(u64 *arg), u64 arg0, u64 arg1)
{
	typeof(l2) *guest_l2 = addr_gva2hva(l1->h.vm, (gva_t)&l2);

	guest_l2->fn = fn;
	guest_l2->arg[0] = arg0;
	guest_l2->arg[1] = arg1;
	heki_prepare_call(l1->h.vcpu[0], guest_run_l2, (u64[HEKI_NR_ARGS]){ l1->nested });
}

/* Runs it to its end. */
static u64 finish_l2(struct l1 *l1)
{
	vcpu_run(l1->h.vcpu[0]);
	return heki_finish_call(l1->h.vcpu[0]);
}

static u64 run_l2(struct l1 *l1, u64 (*fn)(u64 *arg), u64 arg0, u64 arg1)
{
	prepare_l2(l1, fn, arg0, arg1);
	return finish_l2(l1);
}

/* Runs it to where it leaves for user space, with all that KVM maps for it. */
static void stop_in_l2(struct l1 *l1, u64 (*fn)(u64 *arg), u64 arg0)
{
	struct ucall uc;

	prepare_l2(l1, fn, arg0, 0);
	vcpu_run(l1->h.vcpu[0]);
	TEST_ASSERT(get_ucall(l1->h.vcpu[0], &uc) == UCALL_SYNC && uc.args[1] == IN_L2,
		    "L2 did not stop");
}

static u64 l2_write(struct l1 *l1, u64 nr)
{
	return run_l2(l1, guest_write, HEKI_PAGE(nr), HEKI_ATTACK);
}

enum paging { SHARED, NESTED, NESTED_LARGE };

static bool has_1g_pages(void)
{
	return host_cpu_is_intel || kvm_cpu_has(X86_FEATURE_GBPAGES);
}

/* Why the VM cannot be made, if it cannot. */
static const char *obstacle(enum paging paging)
{
	if (!kvm_cpu_has(X86_FEATURE_VMX) && !kvm_cpu_has(X86_FEATURE_SVM))
		return "no nested virtualization";
	if (paging != SHARED && !kvm_cpu_has_tdp())
		return "no nested paging";
	if (paging == NESTED_LARGE && !has_1g_pages())
		return "no pages of 1 GiB in nested paging";
	return NULL;
}

static void map_pages(struct heki_vm *h)
{
	*vm_get_pte(h->vm, heki_map_alias(h, READ_ONLY)) &= ~PTE_WRITABLE_MASK(&h->vm->mmu);
	heki_map_user(h, heki_map_alias(h, USER));
	heki_put_code(h, HEKI_PAGE(USER));
	heki_poke(h, HEKI_PAGE(SEALED), HEKI_CALM);
	heki_poke(h, HEKI_PAGE(OPEN), HEKI_CALM);
}

/* L1 maps all it has for L2, at the same addresses. */
static void map_for_l2(struct heki_vm *h, enum paging paging)
{
	if (paging == SHARED)
		return;
	tdp_identity_map_default_memslots(h->vm);
	if (paging == NESTED_LARGE)
		tdp_identity_map_1g(h->vm, HEKI_TEST_GPA, PG_SIZE_1G);
	else
		tdp_map(h->vm, HEKI_TEST_GPA, HEKI_TEST_GPA, 16 * PAGE_SIZE);
}

/* VMX fixes it. */
#define FIXED_CR0	X86_CR0_NE

/* Before L2 is set up, as its registers are copies. */
static void set_pinnable_bits(struct l1 *l1)
{
	struct heki_query q = heki_query(&l1->h);

	l1->cr0 = q.cr0_pinnable & ~FIXED_CR0;
	l1->cr4 = q.cr4_pinnable;
	heki_guest_enable_cr0(l1->h.vcpu[0], l1->cr0);
	heki_guest_enable_cr4(l1->h.vcpu[0], l1->cr4);
}

static void create_l1(struct l1 *l1, enum paging paging)
{
	struct heki_vm *h = &l1->h;

	__heki_vm_create(h, 2, HEKI_VM_NESTED, VM_MEM_SRC_ANONYMOUS);
	if (paging != SHARED)
		vm_enable_tdp(h->vm);
	if (kvm_cpu_has(X86_FEATURE_VMX))
		vcpu_alloc_vmx(h->vm, &l1->nested);
	else
		vcpu_alloc_svm(h->vm, &l1->nested);
	map_pages(h);
	map_for_l2(h, paging);
	set_pinnable_bits(l1);
	heki_call(h->vcpu[0], guest_set_l2_up, l1->nested);
}

/*
 * Memory
 */

FIXTURE(l2) {
	struct l1 l1;
};

FIXTURE_VARIANT(l2) {
	enum paging paging;
};

FIXTURE_VARIANT_ADD(l2, shared_paging) { .paging = SHARED };
FIXTURE_VARIANT_ADD(l2, nested_paging) { .paging = NESTED };
FIXTURE_VARIANT_ADD(l2, nested_paging_1g) { .paging = NESTED_LARGE };

FIXTURE_SETUP(l2)
{
	const char *why = obstacle(variant->paging);

	if (why)
		SKIP(return, "%s", why);
	create_l1(&self->l1, variant->paging);
}

FIXTURE_TEARDOWN(l2)
{
	heki_vm_free(&self->l1.h);
}

HEKI_TEST(l2, cannot_write_what_l1_sealed)
{
	struct l1 *l1 = &self->l1;

	heki_seal_page(&l1->h, SEALED);
	EXPECT_EQ(GP_VECTOR, l2_write(l1, SEALED));
	/* Now KVM maps the page for L2, and must not map it writable. */
	EXPECT_EQ(0, run_l2(l1, guest_read, HEKI_PAGE(SEALED), 0));
	EXPECT_EQ(GP_VECTOR, l2_write(l1, SEALED));
	EXPECT_EQ(HEKI_CALM, heki_peek(&l1->h, HEKI_PAGE(SEALED)));
	EXPECT_EQ(2, vcpu_get_stat(l1->h.vcpu[0], heki_denied_write));

	EXPECT_EQ(0, l2_write(l1, OPEN));
	EXPECT_EQ(HEKI_ATTACK, heki_peek(&l1->h, HEKI_PAGE(OPEN)));
	EXPECT_EQ(GP_VECTOR, heki_call(l1->h.vcpu[0], guest_write, HEKI_PAGE(SEALED),
				       HEKI_ATTACK));
	EXPECT_EQ(HEKI_CALM, heki_peek(&l1->h, HEKI_PAGE(SEALED)));
}

/* L2 has written the page before: KVM's tables for L2 hold it writable. */
HEKI_TEST(l2, loses_what_it_had)
{
	struct l1 *l1 = &self->l1;

	EXPECT_EQ(0, l2_write(l1, SEALED));
	EXPECT_EQ(HEKI_ATTACK, heki_peek(&l1->h, HEKI_PAGE(SEALED)));
	heki_poke(&l1->h, HEKI_PAGE(SEALED), HEKI_CALM);
	heki_seal_page(&l1->h, SEALED);
	EXPECT_EQ(GP_VECTOR, l2_write(l1, SEALED));
	EXPECT_EQ(HEKI_CALM, heki_peek(&l1->h, HEKI_PAGE(SEALED)));
	EXPECT_EQ(0, l2_write(l1, OPEN));
}

/*
 * Registers and nested state
 */

FIXTURE(l1) {
	struct l1 l1;
};

FIXTURE_SETUP(l1)
{
	const char *why = obstacle(SHARED);

	if (why)
		SKIP(return, "%s", why);
	create_l1(&self->l1, SHARED);
}

FIXTURE_TEARDOWN(l1)
{
	heki_vm_free(&self->l1.h);
}

/* L2 could run anything for L1, so L1 is not promised that it cannot. */
HEKI_TEST(l1, is_offered_no_allow_list)
{
	struct heki_vm *h = &self->l1.h;
	struct heki_seal *req;

	EXPECT_EQ(0, heki_query(h).available & HEKI_PROT_EXEC);
	req = heki_begin_exec_request(h);
	heki_add_pin(req, HEKI_REG_CR4, X86_CR4_SMEP);
	EXPECT_EQ(-KVM_EOPNOTSUPP, heki_send(h, h->vcpu[0]));
	EXPECT_EQ(HEKI_STATE_OPEN, heki_query(h).state);
}

static const struct heki_pin loaded_by_exits[] = {
	{ .reg = HEKI_REG_MSR, .index = MSR_LSTAR, .mask = ~0ull },
	{ .reg = HEKI_REG_MSR, .index = MSR_EFER, .mask = EFER_NX },
	{ .reg = HEKI_REG_XCR0, .mask = 1 },
	{ .reg = HEKI_REG_IDTR, .mask = ~0ull },
	{ .reg = HEKI_REG_GDTR, .mask = ~0ull },
	{ .reg = HEKI_REG_LDTR, .mask = 0xffff },
	{ .reg = HEKI_REG_TR, .mask = ~0ull },
};

static const struct heki_pin kept_by_refusal[] = {
	{ .reg = HEKI_REG_CR0, .mask = X86_CR0_PG },
	{ .reg = HEKI_REG_CR4, .mask = X86_CR4_PKE },
};

/* The same exits load CR0 and CR4: there, only what hardware holds all the same is held. */
HEKI_TEST(l1, is_offered_no_pins_that_only_refusal_keeps)
{
	struct heki_vm *h = &self->l1.h;
	int i;

	EXPECT_EQ(X86_CR0_WP, heki_query_pin(h, h->vcpu[0], HEKI_REG_CR0, 0) & X86_CR0_WP);
	for (i = 0; i < ARRAY_SIZE(kept_by_refusal); i++) {
		const struct heki_pin *pin = &kept_by_refusal[i];

		EXPECT_EQ(0, heki_query_pin(h, h->vcpu[0], pin->reg, 0) & pin->mask);
		heki_add_pin(heki_begin_request(h, 0), pin->reg, pin->mask);
		EXPECT_EQ(-KVM_EOPNOTSUPP, heki_send(h, h->vcpu[0]));
	}
	EXPECT_EQ(0, heki_query(h).cr0_pinnable & X86_CR0_PG);
	EXPECT_EQ(0, heki_query(h).cr4_pinnable & X86_CR4_PKE);
	EXPECT_EQ(HEKI_STATE_OPEN, heki_query(h).state);
}

/* Exits of L2 and VMLOAD load them without an instruction that KVM judges. */
HEKI_TEST(l1, is_offered_no_pins_of_what_exits_load)
{
	struct heki_vm *h = &self->l1.h;
	int i;

	EXPECT_EQ(0, heki_query(h).available & (HEKI_PROT_MSR | HEKI_PROT_DT));
	for (i = 0; i < ARRAY_SIZE(loaded_by_exits); i++) {
		const struct heki_pin *pin = &loaded_by_exits[i];

		EXPECT_EQ(0, heki_query_pin(h, h->vcpu[0], pin->reg, pin->index));
		heki_add_part(heki_begin_request(h, 0), pin->reg, pin->index, pin->mask);
		EXPECT_EQ(-KVM_EOPNOTSUPP, heki_send(h, h->vcpu[0]));
	}
	EXPECT_EQ(HEKI_STATE_OPEN, heki_query(h).state);
}

static void seal_pins(struct l1 *l1)
{
	struct heki_seal *req = heki_begin_request(&l1->h, 0);

	heki_add_page(req, SEALED);
	heki_add_pin(req, HEKI_REG_CR0, l1->cr0);
	heki_add_pin(req, HEKI_REG_CR4, l1->cr4);
	heki_seal(&l1->h);
}

/* Are the bits that show without user mode at work in L1, whatever it reads? */
static bool pins_are_in_force(struct l1 *l1)
{
	struct kvm_vcpu *vcpu = l1->h.vcpu[0];

	return heki_call(vcpu, guest_write, HEKI_ALIAS(READ_ONLY), HEKI_ATTACK) == PF_VECTOR &&
	       heki_call(vcpu, guest_exec, HEKI_ALIAS(USER)) == PF_VECTOR &&
	       (!(l1->cr4 & X86_CR4_SMAP) ||
		heki_call(vcpu, guest_read, HEKI_ALIAS(USER)) == PF_VECTOR) &&
	       (!(l1->cr4 & X86_CR4_FSGSBASE) || !heki_call(vcpu, guest_rdfsbase));
}

/* arg[0]: bits */
static u64 guest_clear_cr0(u64 *arg)
{
	return guest_set_cr0((u64[]){ get_cr0() & ~arg[0] });
}

static u64 guest_clear_cr4(u64 *arg)
{
	return guest_set_cr4((u64[]){ get_cr4() & ~arg[0] });
}

/* Is each of the bits refused to be cleared? */
static bool is_each_pinned(struct kvm_vcpu *vcpu, u64 (*clear)(u64 *arg), u64 bits)
{
	u64 bit;

	for (; bits; bits &= ~bit) {
		bit = bits & -bits;
		if (heki_call(vcpu, clear, bit) != GP_VECTOR)
			return false;
	}
	return true;
}

/* L2's registers are its own; L1's are held again when L2 exits. */
HEKI_TEST(l1, keeps_its_pins_whatever_l2_does_with_its_own)
{
	struct l1 *l1 = &self->l1;

	seal_pins(l1);
	EXPECT_EQ(0, run_l2(l1, guest_clear_cr4, l1->cr4, 0));
	EXPECT_EQ(0, run_l2(l1, guest_clear_cr0, l1->cr0, 0));
	EXPECT_EQ(0, run_l2(l1, guest_write, HEKI_ALIAS(READ_ONLY), HEKI_ATTACK));
	EXPECT_TRUE(pins_are_in_force(l1));
	EXPECT_TRUE(is_each_pinned(l1->h.vcpu[0], guest_clear_cr0, l1->cr0));
	EXPECT_TRUE(is_each_pinned(l1->h.vcpu[0], guest_clear_cr4, l1->cr4));
}

/* arg[0], arg[1]: bits of CR0 and CR4 */
static u64 guest_lower_host_state(u64 *arg)
{
	return vmwrite(HOST_CR0, get_cr0() & ~arg[0]) || vmwrite(HOST_CR4, get_cr4() & ~arg[1]);
}

static u64 guest_nothing(u64 *arg)
{
	return 0;
}

static u64 exit_with_less(struct l1 *l1)
{
	return heki_call(l1->h.vcpu[0], guest_lower_host_state, l1->cr0, l1->cr4) ?:
	       run_l2(l1, guest_nothing, 0, 0);
}

/* VMX lets L1 choose the registers that it gets at the next exit of L2. */
HEKI_TEST(l1, cannot_shed_its_pins_by_an_exit)
{
	struct l1 *l1 = &self->l1;
	struct kvm_vcpu *vcpu = l1->h.vcpu[0];

	if (!host_cpu_is_intel)
		SKIP(return, "VMX only");
	EXPECT_EQ(0, exit_with_less(l1));
	EXPECT_FALSE(pins_are_in_force(l1));
	set_pinnable_bits(l1);
	seal_pins(l1);
	EXPECT_EQ(0, exit_with_less(l1));
	EXPECT_EQ(0, heki_call(vcpu, guest_get_cr0) & l1->cr0);
	EXPECT_EQ(0, heki_call(vcpu, guest_get_cr4) & l1->cr4);
	EXPECT_TRUE(pins_are_in_force(l1));
}

/* As the manual has an entry of the lists that VM entries and exits load. */
struct msr_entry {
	u32 index;
	u32 reserved;
	u64 value;
};

/* arg[0]: address of one entry */
static u64 guest_load_at_exit(u64 *arg)
{
	return vmwrite(VM_EXIT_MSR_LOAD_ADDR, arg[0]) || vmwrite(VM_EXIT_MSR_LOAD_COUNT, 1);
}

#define MSR_LIST	6

/* Why no MSR is promised to such an L1. Its pins hold all the same. */
HEKI_TEST(l1, loads_msrs_by_an_exit)
{
	struct l1 *l1 = &self->l1;
	struct kvm_vcpu *vcpu = l1->h.vcpu[0];
	struct msr_entry entry = { .index = MSR_LSTAR, .value = 0x1000 };

	if (!host_cpu_is_intel)
		SKIP(return, "VMX only");
	seal_pins(l1);
	EXPECT_NE(entry.value, heki_call(vcpu, guest_rdmsr, MSR_LSTAR));
	memcpy(heki_hva(&l1->h, HEKI_PAGE(MSR_LIST)), &entry, sizeof(entry));
	EXPECT_EQ(0, heki_call(vcpu, guest_load_at_exit, HEKI_PAGE(MSR_LIST)));
	EXPECT_EQ(0, run_l2(l1, guest_nothing, 0, 0));
	EXPECT_EQ(entry.value, heki_call(vcpu, guest_rdmsr, MSR_LSTAR));
	EXPECT_TRUE(pins_are_in_force(l1));
}

/* arg[0]: struct svm_test_data; arg[1], arg[2]: bits of CR0 and CR4 */
static u64 guest_lower_vmcb(u64 *arg)
{
	struct svm_test_data *svm = (void *)arg[0];

	svm->vmcb->save.cr0 &= ~arg[1];
	svm->vmcb->save.cr4 &= ~arg[2];
	return 0;
}

/* arg[0]: page */
static u64 guest_clear_page(u64 *arg)
{
	memset((void *)arg[0], 0, PAGE_SIZE);
	return 0;
}

/* On SVM L1 gets its registers back from where no guest can write. */
HEKI_TEST(l1, cannot_shed_its_pins_by_its_save_area)
{
	struct l1 *l1 = &self->l1;
	struct kvm_vcpu *vcpu = l1->h.vcpu[0];
	struct svm_test_data *svm;
	u64 cr0, cr4;

	if (!host_cpu_is_amd_compatible)
		SKIP(return, "SVM only");
	svm = addr_gva2hva(l1->h.vm, l1->nested);
	seal_pins(l1);
	cr0 = heki_call(vcpu, guest_get_cr0);
	cr4 = heki_call(vcpu, guest_get_cr4);
	EXPECT_EQ(0, heki_call(vcpu, guest_lower_vmcb, l1->nested, l1->cr0, l1->cr4));
	EXPECT_EQ(0, run_l2(l1, guest_write, HEKI_ALIAS(READ_ONLY), HEKI_ATTACK));
	EXPECT_EQ(0, run_l2(l1, guest_clear_page, (u64)svm->save_area, 0));
	EXPECT_EQ(cr0, heki_call(vcpu, guest_get_cr0));
	EXPECT_EQ(cr4, heki_call(vcpu, guest_get_cr4));
	EXPECT_TRUE(pins_are_in_force(l1));
}

/* arg[0]: physical address */
static u64 guest_vmclear(u64 *arg)
{
	return vmclear(arg[0]);
}

/* VMCLEAR writes the launch state into the page that L1 names. */
HEKI_TEST(l1, cannot_write_by_vmclear)
{
	struct l1 *l1 = &self->l1;

	if (!host_cpu_is_intel)
		SKIP(return, "VMX only");
	heki_calm_page(&l1->h, OPEN);
	heki_calm_page(&l1->h, SEALED);
	heki_call(l1->h.vcpu[0], guest_vmclear, HEKI_PAGE(OPEN));
	EXPECT_FALSE(heki_page_is_calm(&l1->h, OPEN));

	seal_pins(l1);
	heki_call(l1->h.vcpu[0], guest_vmclear, HEKI_PAGE(SEALED));
	EXPECT_TRUE(heki_page_is_calm(&l1->h, SEALED));
}

static u64 guest_vmwrite_stack(u64 *arg)
{
	return vmwrite(GUEST_RSP, arg[0]);
}

/* A VMCS that is in use when its page is sealed: KVM does not put it back. */
HEKI_TEST(l1, cannot_write_by_its_vmcs)
{
	struct l1 *l1 = &self->l1;
	struct kvm_vcpu *vcpu = l1->h.vcpu[0];
	u8 before[4096];
	struct vmx_pages *vmx;

	if (!host_cpu_is_intel)
		SKIP(return, "VMX only");
	vmx = addr_gva2hva(l1->h.vm, l1->nested);
	heki_add_range(heki_begin_request(&l1->h, 0), vmx->vmcs_gpa, PAGE_SIZE, 0, 0);
	heki_seal(&l1->h);
	memcpy(before, vmx->vmcs_hva, sizeof(before));
	EXPECT_EQ(0, heki_call(vcpu, guest_vmwrite_stack, HEKI_ATTACK));
	heki_call(vcpu, guest_vmclear, vmx->vmcs_gpa);
	EXPECT_EQ(0, memcmp(before, vmx->vmcs_hva, sizeof(before)));
}

/* arg[0]: where L2's exits store MSR_EFER */
static u64 guest_store_msr(u64 *arg)
{
	return vmwrite(VM_EXIT_MSR_STORE_ADDR, arg[0]) || vmwrite(VM_EXIT_MSR_STORE_COUNT, 1);
}

static void put_msr_entry(struct heki_vm *h, u64 nr)
{
	heki_poke(h, HEKI_PAGE(nr), MSR_EFER);
	heki_poke(h, HEKI_PAGE(nr) + 8, HEKI_CALM);
}

/* An exit that cannot store what it must is a VMX abort, which shuts L1 down. */
HEKI_TEST(l1, cannot_write_by_the_msr_store_list)
{
	struct l1 *l1 = &self->l1;
	struct heki_vm *h = &l1->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];

	if (!host_cpu_is_intel)
		SKIP(return, "VMX only");
	put_msr_entry(h, OPEN);
	put_msr_entry(h, SEALED);
	EXPECT_EQ(0, heki_call(vcpu, guest_store_msr, HEKI_PAGE(OPEN)));
	EXPECT_EQ(0, run_l2(l1, guest_nothing, 0, 0));
	EXPECT_NE(HEKI_CALM, heki_peek(h, HEKI_PAGE(OPEN) + 8));

	seal_pins(l1);
	EXPECT_EQ(0, heki_call(vcpu, guest_store_msr, HEKI_PAGE(SEALED)));
	heki_prepare_call(vcpu, guest_run_l2, (u64[HEKI_NR_ARGS]){ l1->nested });
	vcpu_run(vcpu);
	EXPECT_EQ(KVM_EXIT_SHUTDOWN, vcpu->run->exit_reason);
	EXPECT_EQ(HEKI_CALM, heki_peek(h, HEKI_PAGE(SEALED) + 8));
}

/* arg[0]: the virtual-APIC page of L2 */
static u64 guest_set_virtual_apic(u64 *arg)
{
	return vmwrite(CPU_BASED_VM_EXEC_CONTROL,
		       vmreadz(CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_TPR_SHADOW) ||
	       vmwrite(VIRTUAL_APIC_PAGE_ADDR, arg[0]) || vmwrite(TPR_THRESHOLD, 0);
}

static u64 guest_set_cr8(u64 *arg)
{
	asm volatile("mov %0, %%cr8" : : "r"(arg[0]));
	return 0;
}

/* The CPU keeps L2's CR8 in that page. L2 is not entered with a page that is sealed. */
HEKI_TEST(l1, cannot_write_by_a_virtual_apic)
{
	struct l1 *l1 = &self->l1;
	struct heki_vm *h = &l1->h;

	if (!host_cpu_is_intel)
		SKIP(return, "VMX only");
	heki_calm_page(h, OPEN);
	heki_calm_page(h, SEALED);
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_set_virtual_apic, HEKI_PAGE(OPEN)));
	EXPECT_EQ(0, run_l2(l1, guest_set_cr8, 5, 0));
	EXPECT_FALSE(heki_page_is_calm(h, OPEN));

	seal_pins(l1);
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_set_virtual_apic, HEKI_PAGE(SEALED)));
	EXPECT_EQ(L2_FAILED, run_l2(l1, guest_set_cr8, 5, 0));
	EXPECT_TRUE(heki_page_is_calm(h, SEALED));
}

static u64 guest_stop_and_set_cr8(u64 *arg)
{
	GUEST_SYNC(IN_L2);
	return guest_set_cr8(arg);
}

/* The page is KVM's for as long as L2 runs; another vCPU seals it meanwhile. */
HEKI_TEST(l1, cannot_write_by_the_virtual_apic_that_l2_has)
{
	struct l1 *l1 = &self->l1;
	struct heki_vm *h = &l1->h;

	if (!host_cpu_is_intel)
		SKIP(return, "VMX only");
	heki_calm_page(h, SEALED);
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_set_virtual_apic, HEKI_PAGE(SEALED)));
	stop_in_l2(l1, guest_stop_and_set_cr8, 5);
	EXPECT_TRUE(heki_page_is_calm(h, SEALED));
	EXPECT_EQ(0, finish_l2(l1));
	EXPECT_FALSE(heki_page_is_calm(h, SEALED));

	heki_calm_page(h, SEALED);
	stop_in_l2(l1, guest_stop_and_set_cr8, 6);
	heki_add_page(heki_begin_request(h, 0), SEALED);
	EXPECT_EQ(0, heki_send(h, h->vcpu[1]));
	EXPECT_EQ(L2_FAILED, finish_l2(l1));
	EXPECT_TRUE(heki_page_is_calm(h, SEALED));
	EXPECT_EQ(1, vcpu_get_stat(h->vcpu[0], heki_denied_write));
}

/*
 * Lets L1 run @fn, which names a page that KVM may not write. KVM may refuse with
 * an exception or, as for any page it cannot map, give the vCPU up.
 */
static void attempt(struct l1 *l1, u64 (*fn)(u64 *arg), u64 nr)
{
	struct kvm_vcpu *vcpu = l1->h.vcpu[0];

	heki_prepare_call(vcpu, fn, (u64[HEKI_NR_ARGS]){ HEKI_PAGE(nr) });
	vcpu_run(vcpu);
	if (vcpu->run->exit_reason != KVM_EXIT_INTERNAL_ERROR)
		heki_finish_call(vcpu);
}

static u64 guest_vmsave(u64 *arg)
{
	return kvm_asm_safe("vmsave %%rax", "a"(arg[0]));
}

HEKI_TEST(l1, cannot_write_by_vmsave)
{
	struct l1 *l1 = &self->l1;

	if (!host_cpu_is_amd_compatible)
		SKIP(return, "SVM only");
	heki_calm_page(&l1->h, OPEN);
	heki_calm_page(&l1->h, SEALED);
	EXPECT_EQ(0, heki_call(l1->h.vcpu[0], guest_vmsave, HEKI_PAGE(OPEN)));
	EXPECT_FALSE(heki_page_is_calm(&l1->h, OPEN));

	seal_pins(l1);
	attempt(l1, guest_vmsave, SEALED);
	EXPECT_TRUE(heki_page_is_calm(&l1->h, SEALED));
}

static u64 guest_vmrun(u64 *arg)
{
	return kvm_asm_safe("vmrun %%rax", "a"(arg[0]));
}

/* The VMCB gets the exit code: a VMCB in a sealed page is refused or not written. */
HEKI_TEST(l1, cannot_write_by_vmrun)
{
	struct l1 *l1 = &self->l1;

	if (!host_cpu_is_amd_compatible)
		SKIP(return, "SVM only");
	/* No valid VMCB: VMRUN ends at once with an exit code. */
	heki_calm_page(&l1->h, OPEN);
	heki_calm_page(&l1->h, SEALED);
	heki_call(l1->h.vcpu[0], guest_vmrun, HEKI_PAGE(OPEN));
	EXPECT_FALSE(heki_page_is_calm(&l1->h, OPEN));

	seal_pins(l1);
	attempt(l1, guest_vmrun, SEALED);
	EXPECT_TRUE(heki_page_is_calm(&l1->h, SEALED));
}

static u64 guest_vmptrst(u64 *arg)
{
	return kvm_asm_safe("vmptrst (%[gva])", [gva]"r"(arg[0]));
}

/* An operand of a VMX instruction. */
HEKI_TEST(l1, cannot_write_by_vmptrst)
{
	struct l1 *l1 = &self->l1;

	if (!host_cpu_is_intel)
		SKIP(return, "VMX only");
	heki_calm_page(&l1->h, OPEN);
	heki_calm_page(&l1->h, SEALED);
	EXPECT_EQ(0, heki_call(l1->h.vcpu[0], guest_vmptrst, HEKI_PAGE(OPEN)));
	EXPECT_FALSE(heki_page_is_calm(&l1->h, OPEN));

	seal_pins(l1);
	attempt(l1, guest_vmptrst, SEALED);
	EXPECT_TRUE(heki_page_is_calm(&l1->h, SEALED));
}

static u64 guest_stop(u64 *arg)
{
	GUEST_SYNC(IN_L2);
	return 0;
}

#define SMRAM_GPA	0x70000000ull

/* An SMI takes L2 to SMM, and KVM puts L1's state where L1 said. */
HEKI_TEST(l1, cannot_write_by_its_host_save_area)
{
	static const u8 rsm[] = { 0x0f, 0xaa };
	struct l1 *l1 = &self->l1;
	struct heki_vm *h = &l1->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];

	if (!host_cpu_is_amd_compatible)
		SKIP(return, "SVM only");
	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM without CONFIG_KVM_SMM");
	setup_smram(h->vm, vcpu, SMRAM_GPA, rsm, sizeof(rsm));
	heki_calm_page(h, OPEN);
	heki_calm_page(h, SEALED);
	EXPECT_EQ(0, heki_call(vcpu, guest_wrmsr, MSR_VM_HSAVE_PA, HEKI_PAGE(OPEN)));
	stop_in_l2(l1, guest_stop, 0);
	inject_smi(vcpu);
	EXPECT_EQ(0, finish_l2(l1));
	EXPECT_FALSE(heki_page_is_calm(h, OPEN));

	heki_seal_page(h, SEALED);
	EXPECT_EQ(0, heki_call(vcpu, guest_wrmsr, MSR_VM_HSAVE_PA, HEKI_PAGE(SEALED)));
	stop_in_l2(l1, guest_stop, 0);
	inject_smi(vcpu);
	/* L1 could not be found again: KVM ends the VM. */
	EXPECT_EQ(-1, _vcpu_run(vcpu));
	EXPECT_EQ(EIO, errno);
	EXPECT_TRUE(heki_page_is_calm(h, SEALED));
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_write));
}

/*
 * Hyper-V's enlightened VMCS: memory of L1, which KVM keeps mapped
 */

FIXTURE(enlightened) {
	struct l1 l1;
	struct hyperv_test_pages *hyperv;
};

/* arg[0]: struct vmx_pages, arg[1]: struct hyperv_test_pages */
static u64 guest_set_enlightened_l2_up(u64 *arg)
{
	struct hyperv_test_pages *hyperv = (void *)arg[1];

	enable_vp_assist(hyperv->vp_assist_gpa, hyperv->vp_assist);
	evmcs_enable();
	GUEST_ASSERT(prepare_for_vmx_operation((void *)arg[0]));
	GUEST_ASSERT(load_evmcs(hyperv));
	prepare_vmcs((void *)arg[0], l2_main);
	return 0;
}

FIXTURE_SETUP(enlightened)
{
	struct heki_vm *h = &self->l1.h;
	gva_t hyperv;

	if (!kvm_cpu_has(X86_FEATURE_VMX) || !kvm_has_cap(KVM_CAP_HYPERV_ENLIGHTENED_VMCS))
		SKIP(return, "no enlightened VMCS: VMX with CONFIG_KVM_HYPERV only");
	__heki_vm_create(h, 2, HEKI_VM_NESTED, VM_MEM_SRC_ANONYMOUS);
	vcpu_set_hv_cpuid(h->vcpu[0]);
	vcpu_enable_evmcs(h->vcpu[0]);
	vcpu_alloc_vmx(h->vm, &self->l1.nested);
	self->hyperv = vcpu_alloc_hyperv_test_pages(h->vm, &hyperv);
	heki_call(h->vcpu[0], guest_set_enlightened_l2_up, self->l1.nested, hyperv);
}

FIXTURE_TEARDOWN(enlightened)
{
	if (self->l1.h.vm)
		heki_vm_free(&self->l1.h);
}

/* Writes nothing into the VMCS after the exit. */
static u64 guest_enter_l2(u64 *arg)
{
	if (!l2.launched) {
		l2.launched = true;
		return vmlaunch();
	}
	vmwrite(GUEST_RIP, vmreadz(GUEST_RIP) + 3);
	return vmresume();
}

static void stop_in_enlightened_l2(struct l1 *l1)
{
	struct kvm_vcpu *vcpu = l1->h.vcpu[0];
	struct ucall uc;

	prepare_l2(l1, guest_stop, 0, 0);
	heki_prepare_call(vcpu, guest_enter_l2, (u64[HEKI_NR_ARGS]){});
	vcpu_run(vcpu);
	TEST_ASSERT(get_ucall(vcpu, &uc) == UCALL_SYNC && uc.args[1] == IN_L2, "L2 did not stop");
}

/* The exit of L2 goes into the VMCS when L1 is entered; another vCPU has sealed it. */
HEKI_TEST(enlightened, vmcs_is_not_written_when_it_is_sealed)
{
	struct l1 *l1 = &self->l1;
	struct heki_vm *h = &l1->h;
	void *vmcs = self->hyperv->enlightened_vmcs_hva;
	u8 before[4096];

	stop_in_enlightened_l2(l1);
	memcpy(before, vmcs, sizeof(before));
	EXPECT_EQ(0, finish_l2(l1));
	EXPECT_NE(0, memcmp(before, vmcs, sizeof(before)));

	stop_in_enlightened_l2(l1);
	memcpy(before, vmcs, sizeof(before));
	heki_add_range(heki_begin_request(h, 0), self->hyperv->enlightened_vmcs_gpa, PAGE_SIZE, 0, 0);
	EXPECT_EQ(0, heki_send(h, h->vcpu[1]));
	EXPECT_EQ(0, finish_l2(l1));
	EXPECT_EQ(0, memcmp(before, vmcs, sizeof(before)));
	EXPECT_LE(1, vcpu_get_stat(h->vcpu[0], heki_denied_write));
}

/*
 * The page-modification log: KVM notes there what L2 writes first
 */

#define PML_LAST	511
#define FIRST_WRITTEN	7
#define THEN_WRITTEN	8

static bool has_pml(void)
{
	return kvm_cpu_has_ept() &&
	       kvm_get_feature_msr(MSR_IA32_VMX_PROCBASED_CTLS2) >> 32 & SECONDARY_EXEC_ENABLE_PML &&
	       kvm_get_feature_msr(MSR_IA32_VMX_EPT_VPID_CAP) & VMX_EPT_VPID_CAP_AD_BITS;
}

/* arg[0]: the log */
static u64 guest_start_log(u64 *arg)
{
	return vmwrite(SECONDARY_VM_EXEC_CONTROL,
		       vmreadz(SECONDARY_VM_EXEC_CONTROL) | SECONDARY_EXEC_ENABLE_PML) ||
	       vmwrite(PML_ADDRESS, arg[0]) || vmwrite(GUEST_PML_INDEX, PML_LAST);
}

FIXTURE(log) {
	struct l1 l1;
};

FIXTURE_SETUP(log)
{
	if (!has_pml())
		SKIP(return, "no page-modification logging for L1: VMX with EPT A/D bits only");
	create_l1(&self->l1, NESTED);
}

FIXTURE_TEARDOWN(log)
{
	if (self->l1.h.vm)
		heki_vm_free(&self->l1.h);
}

HEKI_TEST(log, is_not_written_when_it_is_sealed)
{
	struct l1 *l1 = &self->l1;
	struct heki_vm *h = &l1->h;

	heki_calm_page(h, OPEN);
	heki_calm_page(h, SEALED);
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_start_log, HEKI_PAGE(OPEN)));
	EXPECT_EQ(0, l2_write(l1, FIRST_WRITTEN));
	EXPECT_FALSE(heki_page_is_calm(h, OPEN));

	heki_seal_page(h, SEALED);
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_start_log, HEKI_PAGE(SEALED)));
	EXPECT_EQ(0, l2_write(l1, THEN_WRITTEN));
	EXPECT_EQ(HEKI_ATTACK, heki_peek(h, HEKI_PAGE(THEN_WRITTEN)));
	EXPECT_TRUE(heki_page_is_calm(h, SEALED));
	EXPECT_LE(1, vcpu_get_stat(h->vcpu[0], heki_denied_write));
}

int main(int argc, char *argv[])
{
	heki_require();
	return test_harness_run(argc, argv);
}
