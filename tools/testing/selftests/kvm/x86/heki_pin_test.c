// SPDX-License-Identifier: GPL-2.0
/*
 * Pinned bits of CR0 and CR4: a vCPU that has them set cannot clear them, and on
 * a vCPU that has not (another one, one that starts later, one whose registers
 * user space sets) they are in force although it reads what it wrote.
 *
 * Whether a bit is in force is asked of the CPU, not of the register: by an
 * access that the bit forbids, or by an instruction that it allows. Where this CPU
 * shows no difference, what the register says is all there is to see.
 */
#include <sys/wait.h>

#include "kvm_test_harness.h"
#include "apic.h"
#include "heki.h"
#include "smm.h"

#ifndef X86_CR4_CET	/* selftests do not name it */
#define X86_CR4_CET	BIT(23)
#endif

#define NR_VCPUS	2
#define READ_ONLY	0	/* test pages, by their alias */
#define USER		1
#define USER_CODE	2
#define USER_CODE_2	3
#define COMPAT_CODE	4

/*
 * How to see each bit at work
 */

/* WP: the supervisor cannot write read-only pages. */
static bool wp_is_in_force(struct kvm_vcpu *vcpu)
{
	return heki_call(vcpu, guest_write, HEKI_ALIAS(READ_ONLY), HEKI_ATTACK) == PF_VECTOR;
}

/* SMEP: the supervisor cannot run user pages. */
static bool smep_is_in_force(struct kvm_vcpu *vcpu)
{
	return heki_call(vcpu, guest_exec, HEKI_ALIAS(USER)) == PF_VECTOR;
}

/* SMAP: the supervisor cannot read user pages. */
static bool smap_is_in_force(struct kvm_vcpu *vcpu)
{
	return heki_call(vcpu, guest_read, HEKI_ALIAS(USER)) == PF_VECTOR;
}

/* NE: an error of the x87 is an exception. */
static u64 guest_x87_error(u64 *arg)
{
	const u16 unmasked = 0x37f & ~BIT(2);	/* division by zero */
	u64 vector;

	asm volatile("fninit; fldcw %0; fldz; fld1; fdiv %%st(1), %%st" : : "m"(unmasked));
	vector = kvm_asm_safe("fwait");
	asm volatile("fnclex; fninit");
	return vector;
}

static bool ne_is_in_force(struct kvm_vcpu *vcpu)
{
	return heki_call(vcpu, guest_x87_error) == MF_VECTOR;
}

/* VMX holds it set in any case. */
static bool ne_shows(void)
{
	return this_cpu_has(X86_FEATURE_SVM);
}

/* AM: user mode that asks for it gets an exception. The vCPU does not survive it. */
static bool am_is_in_force(struct kvm_vcpu *vcpu)
{
	return !__heki_run_user(vcpu, HEKI_ALIAS(USER_CODE_2), X86_EFLAGS_AC);
}

/* QEMU emulates no such exception: this process is user mode too. */
static bool am_shows(void)
{
	int status = 0;
	pid_t pid = fork();

	if (!pid) {
		u64 word[2];

		asm volatile("sub $128, %%rsp\n\t"
			     "pushf\n\t"
			     "orl $0x40000, (%%rsp)\n\t"
			     "popf\n\t"
			     "movl 1(%0), %%eax\n\t"
			     "add $128, %%rsp" : : "r"(word) : "rax", "cc", "memory");
		_exit(0);
	}
	TEST_ASSERT(pid > 0 && waitpid(pid, &status, 0) == pid, "Cannot try alignment");
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS;
}

/* UMIP: user mode cannot ask where the GDT is. The vCPU does not survive the fault. */
static bool umip_is_in_force(struct kvm_vcpu *vcpu)
{
	return !heki_run_user(vcpu, HEKI_ALIAS(USER_CODE));
}

/* FSGSBASE: the instruction exists. */
static bool fsgsbase_is_in_force(struct kvm_vcpu *vcpu)
{
	return !heki_call(vcpu, guest_rdfsbase);
}

/* CET: an instruction exists that writes shadow stacks of user mode, of which there is none. */
static u64 guest_wruss(u64 *arg)
{
	static u64 word;

	return kvm_asm_safe(".byte 0x66, 0x48, 0x0f, 0x38, 0xf5, 0x07", /* wrussq %rax, (%rdi) */
			    "a"(0), "D"(&word));
}

static bool cet_is_in_force(struct kvm_vcpu *vcpu)
{
	return heki_call(vcpu, guest_wruss) == PF_VECTOR;
}

/* PKE: nothing, where the guest's own is clear: KVM refuses to see it cleared, and that is all. */
static bool pke_shows(void)
{
	return false;
}

static void put_sgdt_code(struct heki_vm *h, u64 gpa)
{
	static const u8 code[] = {
		0x0f, 0x01, 0x05, 0x00, 0x01, 0x00, 0x00,	/* sgdt 0x100(%rip) */
		0x66, 0xba, HEKI_USER_PORT, 0x00,		/* mov $HEKI_USER_PORT, %dx */
		0xee,						/* out %al, (%dx) */
	};

	memcpy(heki_hva(h, gpa), code, sizeof(code));
}

static void put_misaligned_code(struct heki_vm *h, u64 gpa)
{
	static const u8 code[] = {
		0x8b, 0x05, 0xfb, 0x00, 0x00, 0x00,	/* mov 0xfb(%rip), %eax: at 0x101 */
		0x66, 0xba, HEKI_USER_PORT, 0x00,	/* mov $HEKI_USER_PORT, %dx */
		0xee,					/* out %al, (%dx) */
	};

	memcpy(heki_hva(h, gpa), code, sizeof(code));
}

static void map_pages(struct heki_vm *h)
{
	*vm_get_pte(h->vm, heki_map_alias(h, READ_ONLY)) &= ~PTE_WRITABLE_MASK(&h->vm->mmu);
	heki_map_user(h, heki_map_alias(h, USER));
	heki_map_user(h, heki_map_alias(h, USER_CODE));
	heki_map_user(h, heki_map_alias(h, USER_CODE_2));
	heki_put_code(h, HEKI_PAGE(USER));
	put_sgdt_code(h, HEKI_PAGE(USER_CODE));
	put_misaligned_code(h, HEKI_PAGE(USER_CODE_2));
}

/*
 * One bit
 */

FIXTURE(pin) {
	struct heki_vm h;
	bool shows;
};

FIXTURE_VARIANT(pin) {
	u32 reg;
	u64 bit;
	bool (*is_in_force)(struct kvm_vcpu *vcpu);
	bool (*shows)(void);	/* whether this CPU shows it, if not all do */
};

#define BIT_TO_PIN(_name, _reg, _bit, _fn, args...)	\
	FIXTURE_VARIANT_ADD(pin, _name) { .reg = _reg, .bit = _bit, .is_in_force = _fn, args }

BIT_TO_PIN(cr0_ne, HEKI_REG_CR0, X86_CR0_NE, ne_is_in_force, .shows = ne_shows);
BIT_TO_PIN(cr0_wp, HEKI_REG_CR0, X86_CR0_WP, wp_is_in_force);
BIT_TO_PIN(cr0_am, HEKI_REG_CR0, X86_CR0_AM, am_is_in_force, .shows = am_shows);
BIT_TO_PIN(cr4_smep, HEKI_REG_CR4, X86_CR4_SMEP, smep_is_in_force);
BIT_TO_PIN(cr4_smap, HEKI_REG_CR4, X86_CR4_SMAP, smap_is_in_force);
BIT_TO_PIN(cr4_umip, HEKI_REG_CR4, X86_CR4_UMIP, umip_is_in_force);
BIT_TO_PIN(cr4_fsgsbase, HEKI_REG_CR4, X86_CR4_FSGSBASE, fsgsbase_is_in_force);
BIT_TO_PIN(cr4_pke, HEKI_REG_CR4, X86_CR4_PKE, NULL, .shows = pke_shows);
BIT_TO_PIN(cr4_cet, HEKI_REG_CR4, X86_CR4_CET, cet_is_in_force);

static u64 pinnable(struct heki_vm *h, u32 reg)
{
	struct heki_query q = heki_query(h);

	return reg == HEKI_REG_CR0 ? q.cr0_pinnable : q.cr4_pinnable;
}

/* CR0.ET reads as user space left it until the first write, then as set. */
static u64 get_cr(struct kvm_vcpu *vcpu, u32 reg)
{
	if (reg == HEKI_REG_CR0)
		return heki_call(vcpu, guest_get_cr0) | X86_CR0_ET;
	return heki_call(vcpu, guest_get_cr4);
}

static u64 set_cr(struct kvm_vcpu *vcpu, u32 reg, u64 value)
{
	return heki_call(vcpu, reg == HEKI_REG_CR0 ? guest_set_cr0 : guest_set_cr4, value);
}

static u64 guest_fep_set_cr0(u64 *arg)
{
	return kvm_asm_safe_fep("mov %[val], %%cr0", [val]"r"(arg[0]));
}

static u64 guest_fep_set_cr4(u64 *arg)
{
	return kvm_asm_safe_fep("mov %[val], %%cr4", [val]"r"(arg[0]));
}

static u64 emulate_set_cr(struct kvm_vcpu *vcpu, u32 reg, u64 value)
{
	return heki_call(vcpu, reg == HEKI_REG_CR0 ? guest_fep_set_cr0 : guest_fep_set_cr4, value);
}

static void set_bits(struct kvm_vcpu *vcpu, u32 reg, u64 bits)
{
	TEST_ASSERT(!set_cr(vcpu, reg, get_cr(vcpu, reg) | bits), "Cannot set bits %#lx", bits);
}

static void clear_bits(struct kvm_vcpu *vcpu, u32 reg, u64 bits)
{
	TEST_ASSERT(!set_cr(vcpu, reg, get_cr(vcpu, reg) & ~bits), "Cannot clear bits %#lx", bits);
}

#define EXPECT_FORCE(wanted, vcpu) do {					\
	if (self->shows)						\
		EXPECT_EQ(wanted, variant->is_in_force(vcpu));		\
} while (0)

/* CET wants WP, as a bit and as a pin. */
static bool wants_wp(u32 reg, u64 bits)
{
	return reg == HEKI_REG_CR4 && bits & X86_CR4_CET;
}

static void seal_pin(struct heki_vm *h, u32 reg, u64 bits)
{
	heki_begin_request(h, 0);
	if (wants_wp(reg, bits))
		heki_add_pin(h->request, HEKI_REG_CR0, X86_CR0_WP);
	heki_add_pin(h->request, reg, bits);
	heki_seal(h);
}

FIXTURE_SETUP(pin)
{
	int i;

	heki_vm_create(&self->h, NR_VCPUS);
	if (!(pinnable(&self->h, variant->reg) & variant->bit))
		SKIP(return, "this host cannot pin the bit");
	self->shows = !variant->shows || variant->shows();
	map_pages(&self->h);
	for (i = 0; wants_wp(variant->reg, variant->bit) && i < NR_VCPUS; i++)
		set_bits(self->h.vcpu[i], HEKI_REG_CR0, X86_CR0_WP);
}

FIXTURE_TEARDOWN(pin)
{
	heki_vm_free(&self->h);
}

/* Clearing is refused with #GP, counted once, and the register keeps its value. */
static bool is_pinned(struct kvm_vcpu *vcpu, u32 reg, u64 bits)
{
	u64 denied = vcpu_get_stat(vcpu, heki_denied_cr);
	u64 before = get_cr(vcpu, reg);

	return (before & bits) == bits &&
	       set_cr(vcpu, reg, before & ~bits) == GP_VECTOR &&
	       get_cr(vcpu, reg) == before &&
	       vcpu_get_stat(vcpu, heki_denied_cr) == denied + 1;
}

/*
 * QEMU from 9.1 on takes a read of CR4 or CR8 for one of CR0 when it asks what is
 * intercepted. A guest on SVM then reads past KVM what is in force. Seen by reads
 * of CR8, which KVM lets through, at a time when it wants those of CR0.
 */
#define NR_READS	200
#define MISREAD		"this emulator lets a guest read CR4 past KVM (QEMU from 9.1 on)"

static u64 guest_read_cr8(u64 *arg)
{
	u64 cr0 = get_cr0();
	int i;

	set_cr0(cr0 | X86_CR0_CD);
	for (i = 0; i < NR_READS; i++)
		get_cr8();
	set_cr0(cr0);
	return 0;
}

static bool is_misread(struct kvm_vcpu *vcpu, u32 reg)
{
	u64 before;

	if (reg != HEKI_REG_CR4 || !this_cpu_has(X86_FEATURE_SVM))
		return false;
	before = vcpu_get_stat(vcpu, exits);
	heki_call(vcpu, guest_read_cr8);
	return vcpu_get_stat(vcpu, exits) - before >= NR_READS;
}

/* Unsealed, the bit can be cleared and then does nothing. */
HEKI_TEST(pin, unsealed_it_can_be_cleared)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];
	u64 before;

	set_bits(vcpu, variant->reg, variant->bit);
	before = get_cr(vcpu, variant->reg);
	EXPECT_EQ(0, set_cr(vcpu, variant->reg, before & ~variant->bit));
	EXPECT_EQ(before & ~variant->bit, get_cr(vcpu, variant->reg));
	EXPECT_FORCE(false, vcpu);
	set_bits(vcpu, variant->reg, variant->bit);
	EXPECT_FORCE(true, vcpu);
}

HEKI_TEST(pin, it_cannot_be_cleared)
{
	struct heki_vm *h = &self->h;
	int i;

	for (i = 0; i < NR_VCPUS; i++)
		set_bits(h->vcpu[i], variant->reg, variant->bit);
	seal_pin(h, variant->reg, variant->bit);
	for (i = 0; i < NR_VCPUS; i++) {
		EXPECT_TRUE(is_pinned(h->vcpu[i], variant->reg, variant->bit));
		EXPECT_TRUE(is_pinned(h->vcpu[i], variant->reg, variant->bit));
		EXPECT_FORCE(true, h->vcpu[i]);
	}
}

#define NO_FORCED_EMULATION	"kvm.force_emulation_prefix is off and cannot be set"

HEKI_TEST(pin, the_emulator_refuses_too)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];
	u64 before;

	if (!kvm_is_forced_emulation_enabled())
		SKIP(return, NO_FORCED_EMULATION);
	set_bits(vcpu, variant->reg, variant->bit);
	before = get_cr(vcpu, variant->reg);
	EXPECT_EQ(0, emulate_set_cr(vcpu, variant->reg, before & ~variant->bit));
	EXPECT_EQ(before & ~variant->bit, get_cr(vcpu, variant->reg));
	EXPECT_EQ(0, emulate_set_cr(vcpu, variant->reg, before));

	seal_pin(&self->h, variant->reg, variant->bit);
	EXPECT_EQ(GP_VECTOR, emulate_set_cr(vcpu, variant->reg, before & ~variant->bit));
	EXPECT_EQ(before, get_cr(vcpu, variant->reg));
	EXPECT_EQ(0, emulate_set_cr(vcpu, variant->reg, before));
	EXPECT_EQ(before, get_cr(vcpu, variant->reg));
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_cr));
	EXPECT_FORCE(true, vcpu);
}

HEKI_TEST(pin, other_bits_still_change)
{
	u64 other = variant->reg == HEKI_REG_CR0 ? X86_CR0_MP : X86_CR4_TSD;
	struct heki_vm *h = &self->h;
	u64 before;
	int i;

	for (i = 0; i < NR_VCPUS; i++)
		set_bits(h->vcpu[i], variant->reg, variant->bit);
	seal_pin(h, variant->reg, variant->bit);
	for (i = 0; i < NR_VCPUS; i++) {
		before = get_cr(h->vcpu[i], variant->reg);
		EXPECT_EQ(0, set_cr(h->vcpu[i], variant->reg, before | other));
		EXPECT_EQ(before | other, get_cr(h->vcpu[i], variant->reg));
		/* With a pinned bit in the same write, neither changes. */
		EXPECT_EQ(GP_VECTOR, set_cr(h->vcpu[i], variant->reg, before & ~variant->bit));
		EXPECT_EQ(before | other, get_cr(h->vcpu[i], variant->reg));
		EXPECT_EQ(0, set_cr(h->vcpu[i], variant->reg, before));
		EXPECT_EQ(before, get_cr(h->vcpu[i], variant->reg));
		EXPECT_EQ(1, vcpu_get_stat(h->vcpu[i], heki_denied_cr));
	}
}

/* A vCPU that never set the bit: clear to the eye, set in fact. */
HEKI_TEST(pin, it_is_in_force_where_it_is_clear)
{
	struct heki_vm *h = &self->h;
	u64 before;

	if (is_misread(h->vcpu[0], variant->reg))
		SKIP(return, MISREAD);
	set_bits(h->vcpu[0], variant->reg, variant->bit);
	clear_bits(h->vcpu[1], variant->reg, variant->bit);
	before = get_cr(h->vcpu[1], variant->reg);
	EXPECT_EQ(0, before & variant->bit);
	seal_pin(h, variant->reg, variant->bit);
	EXPECT_EQ(before, get_cr(h->vcpu[1], variant->reg));
	EXPECT_FORCE(true, h->vcpu[1]);
	EXPECT_EQ(0, vcpu_get_stat(h->vcpu[1], heki_denied_cr));
}

/* So is it on one that the VMM adds after the seal, and that never had it. */
HEKI_TEST(pin, it_is_in_force_on_a_vcpu_that_comes_later)
{
	struct heki_vm *h = &self->h;
	struct kvm_sregs sregs;

	if (is_misread(h->vcpu[0], variant->reg))
		SKIP(return, MISREAD);
	set_bits(h->vcpu[0], variant->reg, variant->bit);
	seal_pin(h, variant->reg, variant->bit);
	heki_add_vcpu(h, NR_VCPUS, 0);
	vcpu_sregs_get(h->vcpu[NR_VCPUS], &sregs);
	*(variant->reg == HEKI_REG_CR0 ? &sregs.cr0 : &sregs.cr4) &= ~variant->bit;
	vcpu_sregs_set(h->vcpu[NR_VCPUS], &sregs);
	EXPECT_EQ(0, get_cr(h->vcpu[NR_VCPUS], variant->reg) & variant->bit);
	EXPECT_FORCE(true, h->vcpu[NR_VCPUS]);
}

/* It may go on writing what it wrote before, until it has set the bit. */
HEKI_TEST(pin, it_may_be_set_later)
{
	struct heki_vm *h = &self->h;
	u64 before;

	if (is_misread(h->vcpu[0], variant->reg))
		SKIP(return, MISREAD);
	set_bits(h->vcpu[0], variant->reg, variant->bit);
	clear_bits(h->vcpu[1], variant->reg, variant->bit);
	before = get_cr(h->vcpu[1], variant->reg);
	seal_pin(h, variant->reg, variant->bit);
	EXPECT_EQ(0, set_cr(h->vcpu[1], variant->reg, before));
	EXPECT_EQ(before, get_cr(h->vcpu[1], variant->reg));
	EXPECT_EQ(0, set_cr(h->vcpu[1], variant->reg, before | variant->bit));
	EXPECT_EQ(before | variant->bit, get_cr(h->vcpu[1], variant->reg));
	EXPECT_TRUE(is_pinned(h->vcpu[1], variant->reg, variant->bit));
}

/* As after a reset of one vCPU, or a migration. */
static void clear_from_user_space(struct kvm_vcpu *vcpu, u32 reg, u64 bits)
{
	struct kvm_sregs sregs;

	vcpu_sregs_get(vcpu, &sregs);
	if (reg == HEKI_REG_CR0)
		sregs.cr0 &= ~bits;
	else
		sregs.cr4 &= ~bits;
	vcpu_sregs_set(vcpu, &sregs);
}

HEKI_TEST(pin, user_space_clears_what_is_seen_only)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];
	struct heki_vm *h = &self->h;

	if (is_misread(vcpu, variant->reg))
		SKIP(return, MISREAD);
	set_bits(vcpu, variant->reg, variant->bit);
	seal_pin(h, variant->reg, variant->bit);
	clear_from_user_space(vcpu, variant->reg, variant->bit);
	EXPECT_EQ(0, get_cr(vcpu, variant->reg) & variant->bit);
	EXPECT_FORCE(true, vcpu);
}

/*
 * A vCPU that starts after the seal, as the guest's own kernel starts it: INIT,
 * SIPI, real mode, and from there to 64-bit mode with none of the pinned bits.
 */

#define TRAMPOLINE_GPA	0x1000ull	/* the library leaves the first pages alone */

struct trampoline {
	u32 cr4;
	u32 cr3;
	u32 cr0;
	u16 gdt_limit;
	u32 gdt_base;
	u32 entry;
	u16 entry_cs;
	u16 idt_limit;
	u64 idt_base;
	u64 stack;
	u64 index;
	u64 main;
} __packed;

extern u8 heki_trampoline[], heki_trampoline_paged[], heki_trampoline_64[];
extern u8 heki_trampoline_data[], heki_trampoline_end[];

asm(".pushsection .rodata\n"
    ".global heki_trampoline, heki_trampoline_paged, heki_trampoline_64\n"
    ".global heki_trampoline_data, heki_trampoline_end\n"
    ".set data, heki_trampoline_data - heki_trampoline\n"
    ".code16\n"
    "heki_trampoline:\n\t"
    "cli\n\t"
    "movl %cs:(data), %eax\n\t"
    "movl %eax, %cr4\n\t"
    "movl %cs:(data + 4), %eax\n\t"
    "movl %eax, %cr3\n\t"
    "movl $0xc0000080, %ecx\n\t"	/* EFER: LME and NX */
    "rdmsr\n\t"
    "orl $0x900, %eax\n\t"
    "wrmsr\n\t"
    "lgdtl %cs:(data + 12)\n\t"
    "movl %cs:(data + 8), %eax\n\t"
    "movl %eax, %cr0\n"
    "heki_trampoline_paged:\n\t"
    "ljmpl *%cs:(data + 18)\n"
    ".code64\n"
    "heki_trampoline_64:\n\t"
    "lea heki_trampoline_data(%rip), %rbx\n\t"
    "lidt 24(%rbx)\n\t"
    "mov $0x10, %eax\n\t"
    "mov %eax, %ss\n\t"
    "mov %eax, %ds\n\t"
    "mov %eax, %es\n\t"
    "mov 34(%rbx), %rsp\n\t"
    "mov 42(%rbx), %rdi\n\t"
    "jmp *50(%rbx)\n"
    "heki_trampoline_data:\n"
    "heki_trampoline_end:\n"
    ".popsection\n");

kvm_static_assert(offsetof(struct trampoline, cr0) == 8);
kvm_static_assert(offsetof(struct trampoline, gdt_limit) == 12);
kvm_static_assert(offsetof(struct trampoline, entry) == 18);
kvm_static_assert(offsetof(struct trampoline, idt_limit) == 24);
kvm_static_assert(offsetof(struct trampoline, stack) == 34);
kvm_static_assert(offsetof(struct trampoline, index) == 42);
kvm_static_assert(offsetof(struct trampoline, main) == 50);

static void put_trampoline(struct heki_vm *h, u32 index)
{
	struct kvm_vm *vm = h->vm;
	struct trampoline data = {
		.cr4 = X86_CR4_PAE | X86_CR4_OSFXSR |
		       (vm->mmu.pgtable_levels == 5 ? X86_CR4_LA57 : 0),
		.cr3 = vm->mmu.pgd,
		.cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_ET,
		.gdt_limit = PAGE_SIZE - 1,
		.gdt_base = vm->arch.gdt,
		.entry = TRAMPOLINE_GPA + (heki_trampoline_64 - heki_trampoline),
		.entry_cs = 0x8,
		.idt_limit = PAGE_SIZE - 1,
		.idt_base = vm->arch.idt,
		.stack = vm_alloc_stack(vm, 4),
		.index = index,
		.main = (u64)heki_guest_main,
	};
	void *hva = heki_hva(h, TRAMPOLINE_GPA);

	memcpy(hva, heki_trampoline, heki_trampoline_end - heki_trampoline);
	memcpy(hva + (heki_trampoline_data - heki_trampoline), &data, sizeof(data));
	virt_pg_map(vm, TRAMPOLINE_GPA, TRAMPOLINE_GPA);
}

/* The IDT that a vCPU which starts loads. */
static void use_idt(struct heki_vm *h, u64 idt)
{
	void *data = heki_hva(h, TRAMPOLINE_GPA) + (heki_trampoline_data - heki_trampoline);

	memcpy(data + offsetof(struct trampoline, idt_base), &idt, sizeof(idt));
}

/* arg[0]: APIC ID */
static u64 guest_init_sipi(u64 *arg)
{
	u64 to = arg[0] << 32;

	x2apic_enable();
	x2apic_write_reg(APIC_ICR, to | APIC_INT_ASSERT | APIC_DM_INIT);
	x2apic_write_reg(APIC_ICR, to | APIC_INT_ASSERT | APIC_DM_STARTUP |
			 TRAMPOLINE_GPA >> PAGE_SHIFT);
	return 0;
}

/* Starts vCPU 1 anew. It runs when it is next asked for something. */
static void restart_vcpu(struct heki_vm *h)
{
	heki_call(h->vcpu[0], guest_init_sipi, h->vcpu[1]->id);
}

HEKI_TEST(pin, it_is_in_force_on_a_vcpu_that_starts)
{
	struct heki_vm *h = &self->h;
	int i;

	if (is_misread(h->vcpu[0], variant->reg))
		SKIP(return, MISREAD);
	put_trampoline(h, 1);
	for (i = 0; i < NR_VCPUS; i++)
		set_bits(h->vcpu[i], variant->reg, variant->bit);
	seal_pin(h, variant->reg, variant->bit);
	restart_vcpu(h);
	EXPECT_EQ(0, get_cr(h->vcpu[1], variant->reg) & variant->bit);
	EXPECT_FORCE(true, h->vcpu[1]);
	EXPECT_EQ(0, vcpu_get_stat(h->vcpu[1], heki_denied_cr));
}

/*
 * Registers that INIT resets, and that a vCPU which starts loads anew
 */

#define EFER_OF_TRAMPOLINE	(EFER_LME | EFER_NX)
#define IVT_GP			(GP_VECTOR * 4)		/* of real mode, at address 0 */
#define REAL_MODE_GP		0x500

FIXTURE(starts) {
	struct heki_vm h;
};

FIXTURE_SETUP(starts)
{
	heki_vm_create(&self->h, NR_VCPUS);
	put_trampoline(&self->h, 1);
}

FIXTURE_TEARDOWN(starts)
{
	heki_vm_free(&self->h);
}

/* Takes LME and NX from what the trampoline loads. */
static void spoil_trampoline(struct heki_vm *h, u32 efer)
{
	u8 *code = heki_hva(h, TRAMPOLINE_GPA);
	u32 wanted = EFER_OF_TRAMPOLINE;
	long i;

	for (i = 0; i < heki_trampoline_64 - heki_trampoline; i++) {
		if (!memcmp(code + i, &wanted, sizeof(wanted))) {
			memcpy(code + i, &efer, sizeof(efer));
			return;
		}
	}
	TEST_FAIL("the trampoline loads no EFER");
}

/* Has #GP in real mode say so at the port. */
static void catch_real_mode_gp(struct heki_vm *h)
{
	static const u8 code[] = { 0xe6, HEKI_USER_PORT };	/* out %al, $HEKI_USER_PORT */

	memcpy(heki_hva(h, REAL_MODE_GP), code, sizeof(code));
	*(u32 *)heki_hva(h, IVT_GP) = REAL_MODE_GP;
}

static void seal_efer(struct heki_vm *h)
{
	heki_add_msr(heki_begin_request(h, 0), MSR_EFER, EFER_OF_TRAMPOLINE);
	heki_seal(h);
}

HEKI_TEST(starts, a_vcpu_starts_with_the_pinned_efer)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[1];
	u64 efer;

	seal_efer(&self->h);
	restart_vcpu(&self->h);
	efer = heki_call(vcpu, guest_rdmsr, MSR_EFER);
	EXPECT_EQ(EFER_OF_TRAMPOLINE, efer & EFER_OF_TRAMPOLINE);
	EXPECT_EQ(0, vcpu_get_stat(vcpu, heki_denied_msr));
	EXPECT_EQ(GP_VECTOR, heki_call(vcpu, guest_wrmsr, MSR_EFER, efer & ~EFER_NX));
	EXPECT_EQ(efer, heki_call(vcpu, guest_rdmsr, MSR_EFER));
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_msr));
}

/* Unsealed it starts without NX; sealed it never gets to paging. */
HEKI_TEST(starts, a_vcpu_does_not_start_with_another_efer)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[1];

	spoil_trampoline(&self->h, EFER_LME);
	catch_real_mode_gp(&self->h);
	restart_vcpu(&self->h);
	EXPECT_EQ(0, heki_call(vcpu, guest_rdmsr, MSR_EFER) & EFER_NX);

	seal_efer(&self->h);
	restart_vcpu(&self->h);
	vcpu_run(vcpu);
	ASSERT_EQ(KVM_EXIT_IO, vcpu->run->exit_reason);
	EXPECT_EQ(HEKI_USER_PORT, vcpu->run->io.port);
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_msr));
}

#define PAE_TABLES	1	/* test pages */

/* QEMU sets a bit of the first that is reserved, so they are good for once. */
static void put_pae_tables(struct heki_vm *h)
{
	heki_poke(h, HEKI_PAGE(PAE_TABLES), HEKI_PAGE(PAE_TABLES + 1) | 1);	/* present */
	heki_poke(h, HEKI_PAGE(PAE_TABLES + 1), 0x83);	/* 2 MiB from 0 on: present, writable */
}

/* Has the trampoline turn on paging as of 32 bits, and say so at the port. */
static void leave_long_mode_out(struct heki_vm *h)
{
	static const u8 code[] = { 0xe6, HEKI_USER_PORT, 0xf4 };	/* out %al, ...; hlt */
	u8 *trampoline = heki_hva(h, TRAMPOLINE_GPA);
	u32 table = HEKI_PAGE(PAE_TABLES);

	spoil_trampoline(h, EFER_NX);
	memcpy(trampoline + (heki_trampoline_data - heki_trampoline) +
	       offsetof(struct trampoline, cr3), &table, sizeof(table));
	memcpy(trampoline + (heki_trampoline_paged - heki_trampoline), code, sizeof(code));
}

HEKI_TEST(starts, a_vcpu_does_not_start_outside_long_mode)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[1];
	struct kvm_sregs sregs;
	int sealed;

	leave_long_mode_out(&self->h);
	catch_real_mode_gp(&self->h);
	for (sealed = 0; sealed <= 1; sealed++) {
		if (sealed)
			seal_efer(&self->h);
		put_pae_tables(&self->h);
		restart_vcpu(&self->h);
		vcpu_run(vcpu);
		ASSERT_EQ(KVM_EXIT_IO, vcpu->run->exit_reason);
		EXPECT_EQ(HEKI_USER_PORT, vcpu->run->io.port);
		vcpu_sregs_get(vcpu, &sregs);
		EXPECT_EQ(sealed ? 0 : X86_CR0_PG, sregs.cr0 & X86_CR0_PG);
		EXPECT_EQ(0, sregs.efer & EFER_LME);
		EXPECT_EQ(sealed, vcpu_get_stat(vcpu, heki_denied_msr));
	}
}

/* INIT leaves LSTAR as it is, and no value but that of the seal follows. */
HEKI_TEST(starts, a_vcpu_keeps_its_msrs)
{
	struct heki_vm *h = &self->h;
	int i;

	for (i = 0; i < NR_VCPUS; i++)
		EXPECT_EQ(0, heki_call(h->vcpu[i], guest_wrmsr, MSR_LSTAR, 0x1000));
	heki_add_msr(heki_begin_request(h, 0), MSR_LSTAR, ~0ull);
	heki_seal(h);
	restart_vcpu(h);
	EXPECT_EQ(0x1000, heki_call(h->vcpu[1], guest_rdmsr, MSR_LSTAR));
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[1], guest_wrmsr, MSR_LSTAR, 0x2000));
	EXPECT_EQ(0, heki_call(h->vcpu[1], guest_wrmsr, MSR_LSTAR, 0x1000));
}

#define OTHER_GDT	HEKI_PAGE(0)	/* copies of the table */
#define THIRD_GDT	HEKI_PAGE(1)
#define OTHER_IDT	HEKI_PAGE(3)
#define THIRD_IDT	HEKI_PAGE(4)
#define TSS		HEKI_PAGE(2)
#define TSS_SELECTOR	0x28
#define TSS_SELECTOR_2	0x38
#define LDT_SELECTOR	0x48
#define TSS_LIMIT	0x67

/* Any GDT until it has loaded TR, then one more. */
HEKI_TEST(starts, a_vcpu_loads_tables_until_it_is_up)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[1];
	u64 limit = PAGE_SIZE - 1;
	struct kvm_sregs sregs;

	if (!(heki_query(h).available & HEKI_PROT_DT))
		SKIP(return, "loads cannot be made to exit on this host");
	heki_put_descriptor(h, TSS_SELECTOR, HEKI_DESC_TSS, TSS, TSS_LIMIT);
	heki_put_descriptor(h, TSS_SELECTOR_2, HEKI_DESC_TSS, TSS, TSS_LIMIT);
	memcpy(heki_hva(h, OTHER_GDT), addr_gva2hva(h->vm, h->vm->arch.gdt), PAGE_SIZE);
	memcpy(heki_hva(h, THIRD_GDT), addr_gva2hva(h->vm, h->vm->arch.gdt), PAGE_SIZE);
	heki_begin_request(h, 0);
	heki_add_tables(h->request, HEKI_REG_GDTR);
	heki_add_tables(h->request, HEKI_REG_TR);
	heki_seal(h);
	EXPECT_EQ(GP_VECTOR, heki_call(vcpu, guest_lgdt, OTHER_GDT, limit));

	restart_vcpu(h);
	EXPECT_EQ(0, heki_call(vcpu, guest_lgdt, OTHER_GDT, limit));
	EXPECT_EQ(0, heki_call(vcpu, guest_lgdt, THIRD_GDT, limit));
	EXPECT_EQ(0, heki_call(vcpu, guest_ltr, TSS_SELECTOR));
	EXPECT_EQ(0, heki_call(vcpu, guest_lgdt, OTHER_GDT, limit));
	EXPECT_EQ(GP_VECTOR, heki_call(vcpu, guest_lgdt, THIRD_GDT, limit));
	EXPECT_EQ(GP_VECTOR, heki_call(vcpu, guest_ltr, TSS_SELECTOR_2));
	EXPECT_EQ(0, heki_call(vcpu, guest_lgdt, OTHER_GDT, limit));
	vcpu_sregs_get(vcpu, &sregs);
	EXPECT_EQ(OTHER_GDT, sregs.gdt.base);
	EXPECT_EQ(TSS_SELECTOR, sregs.tr.selector);
	EXPECT_EQ(3, vcpu_get_stat(vcpu, heki_denied_msr));
}

/*
 * Linux loads TR and then its IDT. Until TR a vCPU may load any, and have paging on with
 * it; from then on that of the seal and no other.
 */
HEKI_TEST(starts, a_vcpu_loads_another_idt_until_it_is_up)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[1];
	u64 idt = h->vm->arch.idt, limit = PAGE_SIZE - 1;
	struct kvm_sregs sregs;

	if (!(heki_query(h).available & HEKI_PROT_DT))
		SKIP(return, "loads cannot be made to exit on this host");
	heki_put_descriptor(h, TSS_SELECTOR, HEKI_DESC_TSS, TSS, TSS_LIMIT);
	memcpy(heki_hva(h, OTHER_IDT), addr_gva2hva(h->vm, idt), PAGE_SIZE);
	memcpy(heki_hva(h, THIRD_IDT), addr_gva2hva(h->vm, idt), PAGE_SIZE);
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_lidt, idt, limit));
	heki_add_tables(heki_begin_request(h, 0), HEKI_REG_IDTR);
	heki_seal(h);
	EXPECT_EQ(GP_VECTOR, heki_call(vcpu, guest_lidt, OTHER_IDT, limit));

	use_idt(h, OTHER_IDT);
	restart_vcpu(h);
	EXPECT_EQ(0, heki_call(vcpu, guest_lidt, THIRD_IDT, limit));
	EXPECT_EQ(0, heki_call(vcpu, guest_ltr, TSS_SELECTOR));
	EXPECT_EQ(GP_VECTOR, heki_call(vcpu, guest_lidt, OTHER_IDT, limit));
	EXPECT_EQ(GP_VECTOR, heki_call(vcpu, guest_lidt, THIRD_IDT, limit));
	EXPECT_EQ(0, heki_call(vcpu, guest_lidt, idt, limit));
	EXPECT_EQ(GP_VECTOR, heki_call(vcpu, guest_lidt, OTHER_IDT, limit));
	vcpu_sregs_get(vcpu, &sregs);
	EXPECT_EQ(idt, sregs.idt.base);
	EXPECT_EQ(4, vcpu_get_stat(vcpu, heki_denied_msr));
}

/*
 * All bits together, and the instructions that touch CR0 otherwise
 */

FIXTURE(pins) {
	struct heki_vm h;
};

FIXTURE_SETUP(pins)
{
	heki_vm_create(&self->h, NR_VCPUS);
	map_pages(&self->h);
}

FIXTURE_TEARDOWN(pins)
{
	heki_vm_free(&self->h);
}

/*
 * While TS is set the compiler's own SSE faults: set it, look and clear it in one
 * statement. All return CR0 as it was in between, with ET for the reason above.
 */
static u64 guest_mov_clts(u64 *arg)
{
	u64 cr0;

	asm volatile("mov %1, %%cr0; mov %%cr0, %0; clts" : "=&r"(cr0) : "r"(arg[0]) : "memory");
	return cr0 | X86_CR0_ET;
}

static u64 guest_lmsw_clts(u64 *arg)
{
	u64 cr0;

	asm volatile("lmsw %w1; mov %%cr0, %0; clts" : "=&r"(cr0) : "r"(arg[0]) : "memory");
	return cr0 | X86_CR0_ET;
}

static u64 guest_fep_lmsw_clts(u64 *arg)
{
	u64 cr0;

	asm volatile(KVM_FEP "lmsw %w1; mov %%cr0, %0; " KVM_FEP "clts"
		     : "=&r"(cr0) : "r"(arg[0]) : "memory");
	return cr0 | X86_CR0_ET;
}

HEKI_TEST(pins, lmsw_and_clts_still_work)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];
	u64 cr0;

	set_bits(vcpu, HEKI_REG_CR0, X86_CR0_WP);
	cr0 = get_cr(vcpu, HEKI_REG_CR0);
	seal_pin(&self->h, HEKI_REG_CR0, X86_CR0_WP);

	EXPECT_EQ(cr0 | X86_CR0_TS, heki_call(vcpu, guest_mov_clts, cr0 | X86_CR0_TS));
	EXPECT_EQ(cr0, get_cr(vcpu, HEKI_REG_CR0));
	/* LMSW cannot clear PE, here as anywhere. */
	EXPECT_EQ(cr0 | X86_CR0_MP | X86_CR0_TS,
		  heki_call(vcpu, guest_lmsw_clts, X86_CR0_MP | X86_CR0_TS));
	EXPECT_EQ(cr0 | X86_CR0_MP, get_cr(vcpu, HEKI_REG_CR0));
	EXPECT_TRUE(wp_is_in_force(vcpu));
	EXPECT_EQ(0, vcpu_get_stat(vcpu, heki_denied_cr));
}

/* The same on a vCPU whose own WP is clear: no path shows it the forced bit. */
HEKI_TEST(pins, lmsw_and_clts_do_not_leak_a_forced_bit)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[1];
	u64 cr0 = get_cr(vcpu, HEKI_REG_CR0);

	set_bits(self->h.vcpu[0], HEKI_REG_CR0, X86_CR0_WP);
	seal_pin(&self->h, HEKI_REG_CR0, X86_CR0_WP);
	EXPECT_EQ(cr0 | X86_CR0_TS,
		  heki_call(vcpu, guest_lmsw_clts, X86_CR0_PE | X86_CR0_TS));
	EXPECT_EQ(cr0, get_cr(vcpu, HEKI_REG_CR0));
	EXPECT_TRUE(wp_is_in_force(vcpu));
}

/* Neither can clear a pinned bit, and to neither a bit shows that is forced on vCPU 1. */
HEKI_TEST(pins, lmsw_and_clts_of_the_emulator_do_the_same)
{
	struct heki_vm *h = &self->h;
	u64 cr0[NR_VCPUS];
	int i;

	if (!kvm_is_forced_emulation_enabled())
		SKIP(return, NO_FORCED_EMULATION);
	set_bits(h->vcpu[0], HEKI_REG_CR0, X86_CR0_WP);
	for (i = 0; i < NR_VCPUS; i++) {
		cr0[i] = get_cr(h->vcpu[i], HEKI_REG_CR0);
		EXPECT_EQ(cr0[i] | X86_CR0_TS,
			  heki_call(h->vcpu[i], guest_fep_lmsw_clts, X86_CR0_PE | X86_CR0_TS));
	}
	seal_pin(h, HEKI_REG_CR0, X86_CR0_WP);
	for (i = 0; i < NR_VCPUS; i++) {
		EXPECT_EQ(cr0[i] | X86_CR0_TS,
			  heki_call(h->vcpu[i], guest_fep_lmsw_clts, X86_CR0_PE | X86_CR0_TS));
		EXPECT_EQ(cr0[i], get_cr(h->vcpu[i], HEKI_REG_CR0));
		EXPECT_TRUE(wp_is_in_force(h->vcpu[i]));
		EXPECT_EQ(0, vcpu_get_stat(h->vcpu[i], heki_denied_cr));
	}
}

static u64 guest_fep_read(u64 *arg)
{
	return kvm_asm_safe_fep("testb $0, (%[gva])", [gva]"r"(arg[0]));
}

/* An access of the emulator that the bit forbids, where it is clear to the eye only. */
static void expect_emulator_is_held(struct __test_metadata *_metadata, struct heki_vm *h, u32 reg,
				    u64 bit, u64 (*access)(u64 *arg), u64 page)
{
	struct kvm_vcpu *vcpu = h->vcpu[0];

	if (!kvm_is_forced_emulation_enabled())
		SKIP(return, NO_FORCED_EMULATION);
	if (!(pinnable(h, reg) & bit))
		SKIP(return, "this host cannot pin the bit");
	clear_bits(vcpu, reg, bit);
	EXPECT_EQ(0, heki_call(vcpu, access, HEKI_ALIAS(page), HEKI_ATTACK));
	set_bits(vcpu, reg, bit);
	EXPECT_EQ(PF_VECTOR, heki_call(vcpu, access, HEKI_ALIAS(page), HEKI_ATTACK));

	seal_pin(h, reg, bit);
	clear_from_user_space(vcpu, reg, bit);
	heki_poke(h, HEKI_PAGE(page), HEKI_CALM);
	EXPECT_EQ(PF_VECTOR, heki_call(vcpu, access, HEKI_ALIAS(page), HEKI_ATTACK));
	EXPECT_EQ(HEKI_CALM, heki_peek(h, HEKI_PAGE(page)));
	EXPECT_EQ(0, heki_call(vcpu, access, HEKI_PAGE(page), HEKI_ATTACK));
}

HEKI_TEST(pins, wp_holds_the_emulator_where_it_is_clear)
{
	expect_emulator_is_held(_metadata, &self->h, HEKI_REG_CR0, X86_CR0_WP, guest_fep_write,
				READ_ONLY);
}

HEKI_TEST(pins, smap_holds_the_emulator_where_it_is_clear)
{
	expect_emulator_is_held(_metadata, &self->h, HEKI_REG_CR4, X86_CR4_SMAP, guest_fep_read,
				USER);
}

/* The prefix of forced emulation, and behind it the instruction. */
static void put_paging_code(struct heki_vm *h)
{
	static const u8 code[] = {
		0x0f, 0x0b, 'k', 'v', 'm',
		0x0f, 0x22, 0xc0,		/* mov %eax, %cr0 */
		0xe6, HEKI_USER_PORT,		/* out %al, $HEKI_USER_PORT */
	};

	memcpy(heki_hva(h, HEKI_PAGE(COMPAT_CODE)), code, sizeof(code));
}

#define PREFIX_LEN	5
#define MOV_LEN		3

/*
 * Clears PG at CPL 0 in compatibility mode, since 64-bit mode has to have it. Returns the
 * vector of the exception, which leads back to 64-bit mode.
 */
static u64 turn_paging_off(struct kvm_vcpu *vcpu, bool emulated)
{
	u64 insn = HEKI_PAGE(COMPAT_CODE) + PREFIX_LEN;
	struct heki_registers kernel, compat;
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	heki_get_registers(vcpu, &kernel);
	compat = kernel;
	compat.sregs.cs.l = 0;
	compat.sregs.cs.db = 1;
	compat.regs.rip = emulated ? insn - PREFIX_LEN : insn;
	compat.regs.rax = kernel.sregs.cr0 & ~X86_CR0_PG;
	compat.regs.r9 = KVM_EXCEPTION_MAGIC;
	compat.regs.r10 = insn;
	compat.regs.r11 = insn + MOV_LEN;
	heki_set_registers(vcpu, &compat);

	vcpu_run(vcpu);
	TEST_ASSERT(vcpu->run->exit_reason == KVM_EXIT_IO && vcpu->run->io.port == HEKI_USER_PORT,
		    "The vCPU did not get to its port");
	vcpu_sregs_get(vcpu, &sregs);
	vcpu_regs_get(vcpu, &regs);
	TEST_ASSERT(!(sregs.cr0 & X86_CR0_PG) == (regs.r9 == KVM_EXCEPTION_MAGIC),
		    "CR0 is %llx after vector %llx", sregs.cr0, regs.r9);
	vcpu_run_complete_io(vcpu);
	heki_set_registers(vcpu, &kernel);
	return regs.r9 == KVM_EXCEPTION_MAGIC ? 0 : regs.r9;
}

static void expect_paging_is_held(struct __test_metadata *_metadata, struct heki_vm *h, bool emulated)
{
	struct kvm_vcpu *vcpu = h->vcpu[0];
	u64 cr0 = get_cr(vcpu, HEKI_REG_CR0);

	put_paging_code(h);
	EXPECT_EQ(0, turn_paging_off(vcpu, emulated));
	seal_pin(h, HEKI_REG_CR0, X86_CR0_PG);
	EXPECT_EQ(GP_VECTOR, turn_paging_off(vcpu, emulated));
	EXPECT_EQ(GP_VECTOR, turn_paging_off(vcpu, emulated));
	EXPECT_EQ(cr0, get_cr(vcpu, HEKI_REG_CR0));
	EXPECT_EQ(2, vcpu_get_stat(vcpu, heki_denied_cr));
}

HEKI_TEST(pins, paging_is_not_turned_off)
{
	expect_paging_is_held(_metadata, &self->h, false);
}

HEKI_TEST(pins, the_emulator_does_not_turn_paging_off)
{
	if (!kvm_is_forced_emulation_enabled())
		SKIP(return, NO_FORCED_EMULATION);
	expect_paging_is_held(_metadata, &self->h, true);
}

/*
 * Has the VMM take the vCPU out of paging, and the vCPU clear bits of CR4. Returns the exit:
 * of its port, or a shutdown, as there is no handler.
 */
static u32 clear_cr4_without_paging(struct kvm_vcpu *vcpu, void *code, u64 bits)
{
	static const u8 insns[] = {
		0x0f, 0x22, 0xe0,		/* mov %eax, %cr4 */
		0xe6, HEKI_USER_PORT,		/* out %al, $HEKI_USER_PORT */
	};
	struct heki_registers kernel;
	u32 exit;

	memcpy(code, insns, sizeof(insns));
	heki_get_registers(vcpu, &kernel);
	exit = heki_run_unpaged(vcpu, kernel, HEKI_PAGE(COMPAT_CODE), kernel.sregs.cr4 & ~bits);
	if (exit == KVM_EXIT_IO)
		vcpu_run_complete_io(vcpu);
	heki_set_registers(vcpu, &kernel);
	return exit;
}

/* Nothing would set the bit again when paging is back. */
HEKI_TEST(pins, without_paging_pke_is_not_cleared)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	void *code = heki_hva(h, HEKI_PAGE(COMPAT_CODE));

	if (!(pinnable(h, HEKI_REG_CR4) & X86_CR4_PKE))
		SKIP(return, "this host cannot pin the bit");
	set_bits(vcpu, HEKI_REG_CR4, X86_CR4_PKE);
	EXPECT_EQ(KVM_EXIT_IO, clear_cr4_without_paging(vcpu, code, X86_CR4_PKE));
	seal_pin(h, HEKI_REG_CR4, X86_CR4_PKE);
	EXPECT_EQ(KVM_EXIT_SHUTDOWN, clear_cr4_without_paging(vcpu, code, X86_CR4_PKE));
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_cr));
}

/* A pin of one register leaves the other alone. */
HEKI_TEST(pins, what_is_not_pinned_is_free)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];

	set_bits(vcpu, HEKI_REG_CR0, X86_CR0_WP);
	set_bits(vcpu, HEKI_REG_CR4, X86_CR4_SMEP);
	seal_pin(&self->h, HEKI_REG_CR0, X86_CR0_WP);
	EXPECT_EQ(0, set_cr(vcpu, HEKI_REG_CR4,
			    get_cr(vcpu, HEKI_REG_CR4) & ~X86_CR4_SMEP));
	EXPECT_FALSE(smep_is_in_force(vcpu));
}

/* With an allow-list that lists its trampoline, a vCPU starts as before. */
HEKI_TEST(pins, a_vcpu_starts_under_an_allow_list)
{
	struct heki_vm *h = &self->h;
	struct heki_seal *req;

	if (!heki_has_exec(h))
		SKIP(return, "neither MBEC nor GMET on this host");
	put_trampoline(h, 1);
	heki_guest_enable_cr0(h->vcpu[0], X86_CR0_WP);
	req = heki_begin_exec_request(h);
	heki_add_range(req, TRAMPOLINE_GPA, PAGE_SIZE, HEKI_EXEC, HEKI_KIND_TRAMPOLINE);
	heki_add_pin(req, HEKI_REG_CR0, X86_CR0_WP);
	heki_seal_exec(h, req);

	restart_vcpu(h);
	EXPECT_TRUE(wp_is_in_force(h->vcpu[1]));
	EXPECT_TRUE(smep_is_in_force(h->vcpu[1]));
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[1], guest_exec, HEKI_PAGE(USER)));
	EXPECT_EQ(1, vcpu_get_stat(h->vcpu[1], heki_denied_exec));
}

/* Without it, a vCPU cannot be made to run anything else unpaged. */
HEKI_TEST(pins, a_vcpu_cannot_start_where_nothing_is_listed)
{
	struct heki_vm *h = &self->h;

	if (!heki_has_exec(h))
		SKIP(return, "neither MBEC nor GMET on this host");
	put_trampoline(h, 1);
	heki_seal_exec(h, heki_begin_exec_request(h));
	restart_vcpu(h);
	vcpu_run(h->vcpu[1]);
	EXPECT_EQ(KVM_EXIT_SHUTDOWN, h->vcpu[1]->run->exit_reason);
	EXPECT_EQ(1, vcpu_get_stat(h->vcpu[1], heki_denied_exec));
}

/*
 * System management mode, which is the firmware's
 */

#define SMRAM_GPA	0x1000000ull

/* Sets WP and clears it again, says so at the port, and returns. */
static const u8 smi_handler[] = {
	0x0f, 0x20, 0xc0,			/* mov %cr0, %eax */
	0x66, 0x0d, 0x00, 0x00, 0x01, 0x00,	/* or $X86_CR0_WP, %eax */
	0x0f, 0x22, 0xc0,			/* mov %eax, %cr0 */
	0x66, 0x25, 0xff, 0xff, 0xfe, 0xff,	/* and $~X86_CR0_WP, %eax */
	0x0f, 0x22, 0xc0,			/* mov %eax, %cr0 */
	0xe6, HEKI_USER_PORT,			/* out %al, $HEKI_USER_PORT */
	0x0f, 0xaa,				/* rsm */
};

static void expect_smm(struct __test_metadata *_metadata, struct heki_vm *h)
{
	struct kvm_vcpu *vcpu = h->vcpu[0];
	u64 arg[HEKI_NR_ARGS] = {};

	inject_smi(vcpu);
	heki_prepare_call(vcpu, guest_get_cr0, arg);
	vcpu_run(vcpu);
	ASSERT_EQ(KVM_EXIT_IO, vcpu->run->exit_reason);
	ASSERT_EQ(HEKI_USER_PORT, vcpu->run->io.port);
	vcpu_run(vcpu);
	EXPECT_EQ(X86_CR0_WP, heki_finish_call(vcpu) & X86_CR0_WP);
	EXPECT_EQ(0, vcpu_get_stat(vcpu, heki_denied_cr));
	EXPECT_TRUE(is_pinned(vcpu, HEKI_REG_CR0, X86_CR0_WP));
	EXPECT_TRUE(wp_is_in_force(vcpu));
}

HEKI_TEST(pins, smm_has_registers_of_its_own)
{
	struct heki_vm *h = &self->h;

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM without CONFIG_KVM_SMM");
	setup_smram(h->vm, h->vcpu[0], SMRAM_GPA, smi_handler, sizeof(smi_handler));
	set_bits(h->vcpu[0], HEKI_REG_CR0, X86_CR0_WP);
	seal_pin(h, HEKI_REG_CR0, X86_CR0_WP);
	expect_smm(_metadata, h);
}

/* Flips a bit of LSTAR, which SMM and the guest have in common. */
static const u8 lstar_handler[] = {
	0x66, 0xb9, 0x82, 0x00, 0x00, 0xc0,	/* mov $MSR_LSTAR, %ecx */
	0x0f, 0x32,				/* rdmsr */
	0x66, 0x35, 0x00, 0x10, 0x00, 0x00,	/* xor $0x1000, %eax */
	0x0f, 0x30,				/* wrmsr */
	0xe6, HEKI_USER_PORT,			/* out %al, $HEKI_USER_PORT */
	0x0f, 0xaa,				/* rsm */
};

/* Loads zero into EFER, of which SMM has one of its own. */
static const u8 efer_handler[] = {
	0x66, 0xb9, 0x80, 0x00, 0x00, 0xc0,	/* mov $MSR_EFER, %ecx */
	0x66, 0x31, 0xc0,			/* xor %eax, %eax */
	0x66, 0x31, 0xd2,			/* xor %edx, %edx */
	0x0f, 0x30,				/* wrmsr */
	0xe6, HEKI_USER_PORT,			/* out %al, $HEKI_USER_PORT */
	0x0f, 0xaa,				/* rsm */
};

static u32 exit_of_handler(struct heki_vm *h, u32 msr)
{
	u64 arg[HEKI_NR_ARGS] = { msr };

	inject_smi(h->vcpu[0]);
	heki_prepare_call(h->vcpu[0], guest_rdmsr, arg);
	vcpu_run(h->vcpu[0]);
	return h->vcpu[0]->run->exit_reason;
}

/* What SMM left in the MSR, after RSM. */
static u64 msr_after_smm(struct heki_vm *h)
{
	vcpu_run(h->vcpu[0]);
	return heki_finish_call(h->vcpu[0]);
}

/* Without an IDT in SMM, the denial shuts the vCPU down. */
HEKI_TEST(pins, smm_cannot_change_an_msr_either)
{
	struct heki_vm *h = &self->h;

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM without CONFIG_KVM_SMM");
	setup_smram(h->vm, h->vcpu[0], SMRAM_GPA, lstar_handler, sizeof(lstar_handler));
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_wrmsr, MSR_LSTAR, 0x1000));
	ASSERT_EQ(KVM_EXIT_IO, exit_of_handler(h, MSR_LSTAR));
	EXPECT_EQ(0, msr_after_smm(h));

	heki_add_msr(heki_begin_request(h, 0), MSR_LSTAR, ~0ull);
	heki_seal(h);
	EXPECT_EQ(KVM_EXIT_SHUTDOWN, exit_of_handler(h, MSR_LSTAR));
	EXPECT_EQ(1, vcpu_get_stat(h->vcpu[0], heki_denied_msr));
}

HEKI_TEST(pins, smm_has_an_efer_of_its_own)
{
	struct heki_vm *h = &self->h;
	u64 efer;

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM without CONFIG_KVM_SMM");
	setup_smram(h->vm, h->vcpu[0], SMRAM_GPA, efer_handler, sizeof(efer_handler));
	efer = heki_call(h->vcpu[0], guest_rdmsr, MSR_EFER);
	seal_efer(h);
	ASSERT_EQ(KVM_EXIT_IO, exit_of_handler(h, MSR_EFER));
	EXPECT_EQ(efer, msr_after_smm(h));
	EXPECT_EQ(0, vcpu_get_stat(h->vcpu[0], heki_denied_msr));
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], guest_wrmsr, MSR_EFER, efer & ~EFER_NX));
}

/*
 * What RSM loads into the descriptor-table registers
 */

FIXTURE(rsm) {
	struct heki_vm h;
};

FIXTURE_VARIANT(rsm) {
	u32 reg;	/* of which one part is changed meanwhile */
	u32 part;	/* 0 base, of LDTR the selector; 1 limit; 2 selector */
	u32 saved;	/* where in SMRAM it is saved */
	u64 flip;	/* the bits of it */
};

#define SAVE_AREA	0xfe00		/* of SMRAM: struct kvm_smram_state_64 */
#define SAVED_GDTR	0x60
#define SAVED_LDTR	0x70
#define SAVED_IDTR	0x80
#define SAVED_TR	0x90
#define SAVED_LIMIT	4		/* of a segment in it, which begins with the selector */
#define SAVED_BASE	8
#define SAVED_EFER	0xd0
#define SAVED_CR4	0x148
#define SAVED_CR0	0x158
#define OTHER_LDT	0x28

#define PART_TO_SAVE(_name, _reg, _part, _saved, _flip)	\
	FIXTURE_VARIANT_ADD(rsm, _name) { .reg = _reg, .part = _part, .saved = _saved, .flip = _flip }

PART_TO_SAVE(gdtr, HEKI_REG_GDTR, 0, SAVED_GDTR + SAVED_BASE, HEKI_TEST_GPA);
PART_TO_SAVE(gdtr_limit, HEKI_REG_GDTR, 1, SAVED_GDTR + SAVED_LIMIT, 0x10);
PART_TO_SAVE(ldtr, HEKI_REG_LDTR, 0, SAVED_LDTR, OTHER_LDT);
PART_TO_SAVE(idtr, HEKI_REG_IDTR, 0, SAVED_IDTR + SAVED_BASE, HEKI_TEST_GPA);
PART_TO_SAVE(idtr_limit, HEKI_REG_IDTR, 1, SAVED_IDTR + SAVED_LIMIT, 0x10);
PART_TO_SAVE(tr, HEKI_REG_TR, 0, SAVED_TR + SAVED_BASE, HEKI_TEST_GPA);
PART_TO_SAVE(tr_limit, HEKI_REG_TR, 1, SAVED_TR + SAVED_LIMIT, 0x80);
PART_TO_SAVE(tr_selector, HEKI_REG_TR, 2, SAVED_TR, 0x20);

FIXTURE_SETUP(rsm)
{
	struct heki_vm *h = &self->h;

	heki_vm_create(h, NR_VCPUS);
	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM without CONFIG_KVM_SMM");
	if (!(heki_query(h).available & HEKI_PROT_DT))
		SKIP(return, "loads cannot be made to exit on this host");
	setup_smram(h->vm, h->vcpu[0], SMRAM_GPA, smi_handler, sizeof(smi_handler));
}

FIXTURE_TEARDOWN(rsm)
{
	heki_vm_free(&self->h);
}

static u64 table_of(struct kvm_vcpu *vcpu, u32 reg, u32 part)
{
	struct kvm_sregs sregs;

	vcpu_sregs_get(vcpu, &sregs);
	switch (reg) {
	case HEKI_REG_IDTR:
		return part ? sregs.idt.limit : sregs.idt.base;
	case HEKI_REG_GDTR:
		return part ? sregs.gdt.limit : sregs.gdt.base;
	case HEKI_REG_LDTR:
		return sregs.ldt.selector;
	default:
		return part == 2 ? sregs.tr.selector : part ? sregs.tr.limit : sregs.tr.base;
	}
}

/* An SMI, until its handler is at the port. */
static void begin_smi(struct __test_metadata *_metadata, struct heki_vm *h)
{
	heki_prepare_call(h->vcpu[0], guest_get_cr0, (u64[HEKI_NR_ARGS]){});
	inject_smi(h->vcpu[0]);
	vcpu_run(h->vcpu[0]);
	ASSERT_EQ(KVM_EXIT_IO, h->vcpu[0]->run->exit_reason);
	ASSERT_EQ(HEKI_USER_PORT, h->vcpu[0]->run->io.port);
}

/* Its handler, or who can write SMRAM, flips bits of what is saved. */
static void end_smi(struct heki_vm *h, u32 saved, u64 flip)
{
	*(u64 *)heki_hva(h, SMRAM_GPA + SAVE_AREA + saved) ^= flip;
	vcpu_run(h->vcpu[0]);
}

static void run_smi(struct __test_metadata *_metadata, struct heki_vm *h, u32 saved, u64 flip)
{
	begin_smi(_metadata, h);
	end_smi(h, saved, flip);
}

HEKI_TEST(rsm, gives_back_pinned_tables)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];
	u64 before = table_of(vcpu, variant->reg, variant->part);

	/* Unsealed they change: the guest uses none of them before it is back at its port. */
	run_smi(_metadata, &self->h, variant->saved, variant->flip);
	heki_finish_call(vcpu);
	EXPECT_EQ(before ^ variant->flip, table_of(vcpu, variant->reg, variant->part));
	run_smi(_metadata, &self->h, variant->saved, variant->flip);
	heki_finish_call(vcpu);
	EXPECT_EQ(before, table_of(vcpu, variant->reg, variant->part));

	heki_add_tables(heki_begin_request(&self->h, 0), variant->reg);
	heki_seal(&self->h);
	run_smi(_metadata, &self->h, variant->saved, 0);
	heki_finish_call(vcpu);
	EXPECT_EQ(0, vcpu_get_stat(vcpu, heki_denied_msr));
	run_smi(_metadata, &self->h, variant->saved, variant->flip);
	EXPECT_EQ(KVM_EXIT_SHUTDOWN, vcpu->run->exit_reason);
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_msr));
}

/* Has the guest load what is not pinned. */
static u64 load_another(struct heki_vm *h, struct kvm_vcpu *vcpu, u32 reg)
{
	heki_put_descriptor(h, TSS_SELECTOR, HEKI_DESC_TSS, TSS, TSS_LIMIT);
	heki_put_descriptor(h, LDT_SELECTOR, HEKI_DESC_LDT, TSS, TSS_LIMIT);
	switch (reg) {
	case HEKI_REG_IDTR:
		return heki_call(vcpu, guest_lidt, OTHER_IDT, PAGE_SIZE - 1);
	case HEKI_REG_GDTR:
		return heki_call(vcpu, guest_lgdt, OTHER_GDT, PAGE_SIZE - 1);
	case HEKI_REG_LDTR:
		return heki_call(vcpu, guest_lldt, LDT_SELECTOR);
	default:
		return heki_call(vcpu, guest_ltr, TSS_SELECTOR);
	}
}

/* Another vCPU seals the VM while this one is in SMM. */
static void pin_tables_in_smi(struct __test_metadata *_metadata, struct heki_vm *h, u32 reg)
{
	begin_smi(_metadata, h);
	heki_add_tables(heki_begin_request(h, 0), reg);
	ASSERT_EQ(0, heki_send(h, h->vcpu[1]));
}

HEKI_TEST(rsm, meets_a_seal)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];
	u64 before = table_of(vcpu, variant->reg, variant->part);

	pin_tables_in_smi(_metadata, &self->h, variant->reg);
	end_smi(&self->h, variant->saved, 0);
	heki_finish_call(vcpu);
	EXPECT_EQ(0, vcpu_get_stat(vcpu, heki_denied_msr));
	EXPECT_EQ(GP_VECTOR, load_another(&self->h, vcpu, variant->reg));
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_msr));
	EXPECT_EQ(before, table_of(vcpu, variant->reg, variant->part));
}

/* What the SMI found was not pinned then; it is now. */
HEKI_TEST(rsm, gives_back_tables_that_a_seal_met)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];

	pin_tables_in_smi(_metadata, &self->h, variant->reg);
	end_smi(&self->h, variant->saved, variant->flip);
	EXPECT_EQ(KVM_EXIT_SHUTDOWN, vcpu->run->exit_reason);
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_msr));
}

/* Forced in hardware they hold in any case; the change is no less an attack. */
static void expect_no_other_cr(struct __test_metadata *_metadata, struct heki_vm *h, u32 reg, u64 bit,
			       u32 saved)
{
	struct kvm_vcpu *vcpu = h->vcpu[0];

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM without CONFIG_KVM_SMM");
	if (is_misread(vcpu, reg))
		SKIP(return, MISREAD);
	setup_smram(h->vm, vcpu, SMRAM_GPA, smi_handler, sizeof(smi_handler));
	set_bits(vcpu, reg, bit);
	run_smi(_metadata, h, saved, bit);
	heki_finish_call(vcpu);
	EXPECT_EQ(0, get_cr(vcpu, reg) & bit);

	set_bits(vcpu, reg, bit);
	seal_pin(h, reg, bit);
	run_smi(_metadata, h, saved, 0);
	heki_finish_call(vcpu);
	EXPECT_EQ(bit, get_cr(vcpu, reg) & bit);
	EXPECT_EQ(0, vcpu_get_stat(vcpu, heki_denied_cr));
	run_smi(_metadata, h, saved, bit);
	EXPECT_EQ(KVM_EXIT_SHUTDOWN, vcpu->run->exit_reason);
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_cr));
}

HEKI_TEST(pins, rsm_gives_back_cr0)
{
	expect_no_other_cr(_metadata, &self->h, HEKI_REG_CR0, X86_CR0_WP, SAVED_CR0);
}

HEKI_TEST(pins, rsm_gives_back_cr4)
{
	expect_no_other_cr(_metadata, &self->h, HEKI_REG_CR4, X86_CR4_SMEP, SAVED_CR4);
}

/* The same of one that another vCPU pins while this one is in SMM, where the handler clears WP. */
static void expect_cr_of_a_seal(struct __test_metadata *_metadata, struct heki_vm *h, u32 reg, u64 bit,
				u32 saved, u64 flip)
{
	struct kvm_vcpu *vcpu = h->vcpu[0];
	int i;

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM without CONFIG_KVM_SMM");
	if (is_misread(vcpu, reg))
		SKIP(return, MISREAD);
	setup_smram(h->vm, vcpu, SMRAM_GPA, smi_handler, sizeof(smi_handler));
	for (i = 0; i < NR_VCPUS; i++)
		set_bits(h->vcpu[i], reg, bit);
	begin_smi(_metadata, h);
	heki_add_pin(heki_begin_request(h, 0), reg, bit);
	ASSERT_EQ(0, heki_send(h, h->vcpu[1]));
	end_smi(h, saved, flip);
	if (flip) {
		EXPECT_EQ(KVM_EXIT_SHUTDOWN, vcpu->run->exit_reason);
		EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_cr));
		return;
	}
	heki_finish_call(vcpu);
	EXPECT_EQ(0, vcpu_get_stat(vcpu, heki_denied_cr));
	EXPECT_TRUE(is_pinned(vcpu, reg, bit));
	clear_from_user_space(vcpu, reg, bit);
	EXPECT_EQ(0, get_cr(vcpu, reg) & bit);
	EXPECT_TRUE(reg == HEKI_REG_CR0 ? wp_is_in_force(vcpu) : smep_is_in_force(vcpu));
}

HEKI_TEST(pins, cr0_holds_after_an_smi_that_met_the_seal)
{
	expect_cr_of_a_seal(_metadata, &self->h, HEKI_REG_CR0, X86_CR0_WP, SAVED_CR0, 0);
}

HEKI_TEST(pins, cr4_holds_after_an_smi_that_met_the_seal)
{
	expect_cr_of_a_seal(_metadata, &self->h, HEKI_REG_CR4, X86_CR4_SMEP, SAVED_CR4, 0);
}

HEKI_TEST(pins, rsm_gives_back_cr0_that_a_seal_met)
{
	expect_cr_of_a_seal(_metadata, &self->h, HEKI_REG_CR0, X86_CR0_WP, SAVED_CR0, X86_CR0_WP);
}

HEKI_TEST(pins, rsm_gives_back_cr4_that_a_seal_met)
{
	expect_cr_of_a_seal(_metadata, &self->h, HEKI_REG_CR4, X86_CR4_SMEP, SAVED_CR4, X86_CR4_SMEP);
}

/* RSM turns paging on with the pinned EFER or not at all. */
HEKI_TEST(pins, rsm_gives_back_efer)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];
	u64 efer;

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM without CONFIG_KVM_SMM");
	setup_smram(self->h.vm, vcpu, SMRAM_GPA, smi_handler, sizeof(smi_handler));
	efer = heki_call(vcpu, guest_rdmsr, MSR_EFER);
	run_smi(_metadata, &self->h, SAVED_EFER, EFER_NX);
	heki_finish_call(vcpu);
	EXPECT_EQ(efer ^ EFER_NX, heki_call(vcpu, guest_rdmsr, MSR_EFER));
	run_smi(_metadata, &self->h, SAVED_EFER, EFER_NX);
	heki_finish_call(vcpu);
	EXPECT_EQ(efer, heki_call(vcpu, guest_rdmsr, MSR_EFER));

	seal_efer(&self->h);
	run_smi(_metadata, &self->h, SAVED_EFER, 0);
	heki_finish_call(vcpu);
	EXPECT_EQ(efer, heki_call(vcpu, guest_rdmsr, MSR_EFER));
	EXPECT_EQ(0, vcpu_get_stat(vcpu, heki_denied_msr));
	run_smi(_metadata, &self->h, SAVED_EFER, EFER_NX);
	EXPECT_EQ(KVM_EXIT_SHUTDOWN, vcpu->run->exit_reason);
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_msr));
}

/* As pin_tables_in_smi(). SMM has an EFER of its own, which is zero meanwhile. */
static void pin_efer_in_smi(struct __test_metadata *_metadata, struct heki_vm *h)
{
	begin_smi(_metadata, h);
	heki_add_msr(heki_begin_request(h, 0), MSR_EFER, EFER_OF_TRAMPOLINE);
	ASSERT_EQ(0, heki_send(h, h->vcpu[1]));
}

HEKI_TEST(pins, efer_holds_after_an_smi_that_met_the_seal)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];
	u64 efer;

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM without CONFIG_KVM_SMM");
	setup_smram(self->h.vm, vcpu, SMRAM_GPA, smi_handler, sizeof(smi_handler));
	efer = heki_call(vcpu, guest_rdmsr, MSR_EFER);
	pin_efer_in_smi(_metadata, &self->h);
	end_smi(&self->h, SAVED_EFER, 0);
	heki_finish_call(vcpu);
	EXPECT_EQ(efer, heki_call(vcpu, guest_rdmsr, MSR_EFER));
	EXPECT_EQ(0, vcpu_get_stat(vcpu, heki_denied_msr));
	EXPECT_EQ(GP_VECTOR, heki_call(vcpu, guest_wrmsr, MSR_EFER, efer & ~EFER_NX));
	EXPECT_EQ(efer, heki_call(vcpu, guest_rdmsr, MSR_EFER));
}

HEKI_TEST(pins, rsm_gives_back_efer_that_a_seal_met)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM without CONFIG_KVM_SMM");
	setup_smram(self->h.vm, vcpu, SMRAM_GPA, smi_handler, sizeof(smi_handler));
	pin_efer_in_smi(_metadata, &self->h);
	end_smi(&self->h, SAVED_EFER, EFER_NX);
	EXPECT_EQ(KVM_EXIT_SHUTDOWN, vcpu->run->exit_reason);
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_msr));
}

/*
 * The descriptor tables of the firmware itself
 */

#define SMM_TABLES	(SMRAM_GPA + 0x9000)	/* what LGDT and LIDT read, the latter 8 bytes on */
#define SMM_GDT		(SMM_TABLES + 0x100)
#define SMM_IDT		(SMM_TABLES + 0x200)
#define SMM_LDT		0x08
#define SMM_TSS		0x10

kvm_static_assert(SMM_TABLES == 0x1009000);

/* Loads all four, the last two in protected mode. */
static const u8 tables_handler[] = {
	0x66, 0xbb, 0x00, 0x90, 0x00, 0x01,	/* mov $SMM_TABLES, %ebx */
	0x67, 0x66, 0x0f, 0x01, 0x13,		/* lgdtl (%ebx) */
	0x67, 0x66, 0x0f, 0x01, 0x5b, 0x08,	/* lidtl 8(%ebx) */
	0x0f, 0x20, 0xc0,			/* mov %cr0, %eax */
	0x0c, X86_CR0_PE,			/* or $X86_CR0_PE, %al */
	0x0f, 0x22, 0xc0,			/* mov %eax, %cr0 */
	0xb8, SMM_LDT, 0x00,			/* mov $SMM_LDT, %ax */
	0x0f, 0x00, 0xd0,			/* lldt %ax */
	0xb8, SMM_TSS, 0x00,			/* mov $SMM_TSS, %ax */
	0x0f, 0x00, 0xd8,			/* ltr %ax */
	0xe6, HEKI_USER_PORT,			/* out %al, $HEKI_USER_PORT */
	0x0f, 0xaa,				/* rsm */
};

/* A system descriptor of 32 bits. */
static u64 descriptor_32(u8 type, u32 base)
{
	return TSS_LIMIT | (base & 0xffffffull) << 16 | (0x80ull | type) << 40 |
	       (u64)(base >> 24) << 56;
}

/* LTR makes the TSS busy, so each SMI needs it anew. */
static void put_smm_tables(struct heki_vm *h)
{
	const struct {
		u16 limit;
		u32 base;
		u16 unused;
	} __packed tables[] = {
		{ .limit = SMM_TSS + 7, .base = SMM_GDT },
		{ .limit = 7, .base = SMM_IDT },
	};
	u64 *gdt = heki_hva(h, SMM_GDT);

	memcpy(heki_hva(h, SMM_TABLES), tables, sizeof(tables));
	gdt[SMM_LDT / 8] = descriptor_32(HEKI_DESC_LDT, TSS);
	gdt[SMM_TSS / 8] = descriptor_32(HEKI_DESC_TSS, TSS);
}

static bool are_same_tables(const struct kvm_sregs *a, const struct kvm_sregs *b)
{
	return a->gdt.base == b->gdt.base && a->gdt.limit == b->gdt.limit &&
	       a->idt.base == b->idt.base && a->idt.limit == b->idt.limit &&
	       a->ldt.selector == b->ldt.selector && a->tr.selector == b->tr.selector &&
	       a->tr.base == b->tr.base && a->tr.limit == b->tr.limit;
}

HEKI_TEST(pins, smm_has_tables_of_its_own)
{
	static const u32 regs[] = { HEKI_REG_IDTR, HEKI_REG_GDTR, HEKI_REG_LDTR, HEKI_REG_TR };
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	struct kvm_sregs before, inside, after;
	int i, sealed;

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM without CONFIG_KVM_SMM");
	if (!(heki_query(h).available & HEKI_PROT_DT))
		SKIP(return, "loads cannot be made to exit on this host");
	setup_smram(h->vm, vcpu, SMRAM_GPA, tables_handler, sizeof(tables_handler));
	vcpu_sregs_get(vcpu, &before);
	for (sealed = 0; sealed <= 1; sealed++) {
		heki_begin_request(h, 0);
		for (i = 0; i < ARRAY_SIZE(regs); i++)
			heki_add_tables(h->request, regs[i]);
		if (sealed)
			heki_seal(h);
		put_smm_tables(h);
		begin_smi(_metadata, h);
		vcpu_sregs_get(vcpu, &inside);
		EXPECT_EQ(SMM_GDT, inside.gdt.base);
		EXPECT_EQ(SMM_IDT, inside.idt.base);
		EXPECT_EQ(SMM_LDT, inside.ldt.selector);
		EXPECT_EQ(SMM_TSS, inside.tr.selector);
		vcpu_run(vcpu);
		heki_finish_call(vcpu);
		vcpu_sregs_get(vcpu, &after);
		EXPECT_TRUE(are_same_tables(&before, &after));
		EXPECT_EQ(0, vcpu_get_stat(vcpu, heki_denied_msr));
	}
	for (i = 0; i < ARRAY_SIZE(regs); i++)
		EXPECT_EQ(GP_VECTOR, load_another(h, vcpu, regs[i]));
	EXPECT_EQ(ARRAY_SIZE(regs), vcpu_get_stat(vcpu, heki_denied_msr));
}

#define KERNEL_TSS	0x18	/* the library's */

/* INIT lets a vCPU load any GDT, by making TR null. RSM could, where TR itself is not pinned. */
HEKI_TEST(pins, rsm_is_no_init)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	u64 gdt = table_of(vcpu, HEKI_REG_GDTR, 0);

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM without CONFIG_KVM_SMM");
	if (!(heki_query(h).available & HEKI_PROT_DT))
		SKIP(return, "loads cannot be made to exit on this host");
	setup_smram(h->vm, vcpu, SMRAM_GPA, smi_handler, sizeof(smi_handler));
	ASSERT_EQ(KERNEL_TSS, table_of(vcpu, HEKI_REG_TR, 2));
	heki_add_tables(heki_begin_request(h, 0), HEKI_REG_GDTR);
	heki_seal(h);
	EXPECT_EQ(GP_VECTOR, load_another(h, vcpu, HEKI_REG_GDTR));
	run_smi(_metadata, h, SAVED_TR, KERNEL_TSS);
	if (vcpu->run->exit_reason != KVM_EXIT_SHUTDOWN) {
		heki_finish_call(vcpu);
		EXPECT_EQ(GP_VECTOR, load_another(h, vcpu, HEKI_REG_GDTR));
	}
	EXPECT_EQ(gdt, table_of(vcpu, HEKI_REG_GDTR, 0));
	EXPECT_EQ(2, vcpu_get_stat(vcpu, heki_denied_msr));
}

/* Its memory, which nobody else sees, is not the guest kernel's to list. */
HEKI_TEST(pins, smm_runs_under_an_allow_list)
{
	struct heki_vm *h = &self->h;
	struct heki_seal *req;

	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM without CONFIG_KVM_SMM");
	if (!heki_has_exec(h))
		SKIP(return, "neither MBEC nor GMET on this host");
	setup_smram(h->vm, h->vcpu[0], SMRAM_GPA, smi_handler, sizeof(smi_handler));
	set_bits(h->vcpu[0], HEKI_REG_CR0, X86_CR0_WP);
	req = heki_begin_exec_request(h);
	heki_add_pin(req, HEKI_REG_CR0, X86_CR0_WP);
	heki_seal_exec(h, req);
	expect_smm(_metadata, h);
	EXPECT_EQ(0, vcpu_get_stat(h->vcpu[0], heki_denied_exec));
}

#define SMM_CODE	8	/* the page of the handler, SMBASE + 0x8000 */
#define SMM_PAGES	16

/* Puts SMM into memory that the guest kernel has as well. */
static void use_guest_memory_for_smm(struct heki_vm *h)
{
	void *hva = heki_hva(h, HEKI_TEST_GPA);

	vm_set_user_memory_region(h->vm, 1 << 16 | HEKI_TEST_SLOT, 0, HEKI_TEST_GPA,
				  SMM_PAGES * PAGE_SIZE, hva);
	memcpy(heki_hva(h, HEKI_PAGE(SMM_CODE)), smi_handler, sizeof(smi_handler));
	vcpu_set_msr(h->vcpu[0], MSR_IA32_SMBASE, HEKI_TEST_GPA);
}

static void seal_smm(struct heki_vm *h, bool listed)
{
	struct heki_seal *req = heki_begin_exec_request(h);

	if (listed)
		heki_add_range(req, HEKI_PAGE(SMM_CODE), PAGE_SIZE, HEKI_EXEC,
			       HEKI_KIND_OTHER);
	heki_seal_exec(h, req);
}

static u32 exit_of_smi(struct heki_vm *h)
{
	inject_smi(h->vcpu[0]);
	heki_prepare_call(h->vcpu[0], guest_get_cr0, (u64[HEKI_NR_ARGS]){});
	vcpu_run(h->vcpu[0]);
	return h->vcpu[0]->run->exit_reason;
}

FIXTURE(smm) {
	struct heki_vm h;
};

FIXTURE_VARIANT(smm) {
	bool listed;
	u32 exit;
};

FIXTURE_VARIANT_ADD(smm, listed) { .listed = true, .exit = KVM_EXIT_IO };
FIXTURE_VARIANT_ADD(smm, unlisted) { .listed = false, .exit = KVM_EXIT_SHUTDOWN };

FIXTURE_SETUP(smm)
{
	heki_vm_create(&self->h, 1);
	if (!kvm_has_cap(KVM_CAP_X86_SMM))
		SKIP(return, "KVM without CONFIG_KVM_SMM");
	if (!heki_has_exec(&self->h))
		SKIP(return, "neither MBEC nor GMET on this host");
	use_guest_memory_for_smm(&self->h);
}

FIXTURE_TEARDOWN(smm)
{
	heki_vm_free(&self->h);
}

/* SMM is not paged here either, and is no way around the list. */
HEKI_TEST(smm, in_guest_memory_is_judged_by_the_list)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];

	ASSERT_EQ(KVM_EXIT_IO, exit_of_smi(&self->h));
	ASSERT_EQ(HEKI_USER_PORT, vcpu->run->io.port);
	vcpu_run(vcpu);
	heki_finish_call(vcpu);

	seal_smm(&self->h, variant->listed);
	EXPECT_EQ(variant->exit, exit_of_smi(&self->h));
	EXPECT_EQ(!variant->listed, vcpu_get_stat(vcpu, heki_denied_exec));
}

int main(int argc, char *argv[])
{
	heki_require();
	return heki_run_with_forced_emulation(test_harness_run, argc, argv);
}
